"""Figures of the tasks that choose one of their labels: answers to questions, true or false, classes.

| figure                | meaning                                                                                     |
| --------------------- | ------------------------------------------------------------------------------------------- |
| vqa/acc               | mean accuracy of the likeliest answer, see data_pipeline/samples/vqa_answers.py              |
| nlvr2/acc             | share of the statements that are judged right                                               |
| classify/top1, top5   | share of the images whose class is the likeliest, or among the 5 likeliest                   |
| .../acc_commonest     | the first of these figures if the same label, the best for these samples, is always named    |
| loss/vqa, ...         | the loss of training without label smoothing and mixtures                                   |

Shapes: B samples of a chunk, n of all; C labels.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from data_pipeline.samples.tasks import Annotation, ClassAnnotation, Identifier, Nlvr2Annotation, Task, VqaAnnotation
from data_pipeline.samples.vqa_answers import answer_accuracy, answer_scores
from model.task_losses import class_losses, vqa_losses
from pretrain.evaluation.evaluation import Figures
from pretrain.evaluation.task_samples import HeldOutTask, is_labelled

TRUTH = ("False", "True")
"""Names of the labels of nlvr2."""
FIRST_FIGURE: dict[Task, str] = {"vqa": "vqa/acc", "nlvr2": "nlvr2/acc", "classify": "classify/top1"}
NUM_COLUMNS = 3


def choice_names(task: Task, num_labels: int) -> tuple[str, ...]:
    """Return the names of the figures; top5 if there are more than 5 classes."""
    top5 = ("classify/top5",) * (task == "classify" and num_labels > 5)
    return f"loss/{task}", FIRST_FIGURE[task], *top5, f"{task}/acc_commonest"


def choice_rows(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Return what is kept of each sample, (B, 3) float32: likeliest label, rank of the right one from 0, loss. All are
    NaN if any logit is not finite.

    logits: (B, C); targets: (B, C) scores of vqa, whose rank is 0, or (B,) int64 labels, -1 if there is none. A label
    as likely as the right one comes before it.
    """
    logits = logits.float()
    likeliest = logits.argmax(1).float()
    if task == "vqa":
        rows = torch.stack([likeliest, torch.zeros_like(likeliest), vqa_losses(logits, targets)], 1)
    else:
        right = targets.clamp(min=0)
        ranks = (logits >= logits.gather(1, right[:, None])).sum(1) - 1
        rows = torch.stack([likeliest, ranks.float(), class_losses(logits, right)], 1)
    # argmax takes NaN for a label, and the loss is finite beside a logit of minus infinity
    return rows.masked_fill(~logits.isfinite().all(1, keepdim=True), torch.nan)


def choice_figures(samples: HeldOutTask, rows: Tensor, is_good: Tensor) -> Figures:
    """Return the figures of all samples that could be read and have a label, NaN if there is none.

    rows: (n, 3) of `choice_rows`; is_good: (n,) bool.
    """
    task = samples.task
    kept = [
        (annotation, row)
        for annotation, row, good in zip(samples.annotations, rows.double(), is_good.tolist(), strict=True)
        if good and annotation is not None and is_labelled(annotation)
    ]
    names = choice_names(task, samples.labels.num_labels)
    if not kept:
        return dict.fromkeys(names, float("nan"))
    columns = torch.stack([row for _, row in kept])
    figures = {
        f"loss/{task}": float(columns[:, 2].mean()),
        f"{task}/acc_commonest": commonest_score([annotation for annotation, _ in kept]),
    }
    if task == "vqa":
        chosen = label_names(samples)
        scores = [
            accuracy(annotation, chosen[int(label)]) for (annotation, _), label in zip(kept, columns[:, 0], strict=True)
        ]
        figures["vqa/acc"] = sum(scores) / len(scores)
    else:
        figures[FIRST_FIGURE[task]] = float((columns[:, 1] < 1).double().mean())
        figures["classify/top5"] = float((columns[:, 1] < 5).double().mean())
    return {name: figures[name] for name in names}


def choice_results(samples: HeldOutTask, rows: Tensor, is_good: Tensor) -> list[tuple[Identifier, str]]:
    """Return the identifier of each sample that could be read, and its likeliest answer, True or False, or class."""
    names, found = label_names(samples), []
    for place in samples.usable(is_good):
        annotation = samples.annotations[place]
        assert annotation is not None
        found.append((identifier(annotation, samples.key(place)), names[int(rows[place, 0])]))
    return found


def label_names(samples: HeldOutTask) -> Sequence[str]:
    """Return the names of the labels of a task."""
    return TRUTH if samples.task == "nlvr2" else samples.labels.names or ()


def accuracy(annotation: Annotation, answer: str) -> float:
    """Return how right an answer is: to a question by those of the people who were asked, if they are known."""
    if isinstance(annotation, VqaAnnotation) and annotation.human_answers:
        return answer_accuracy(answer, annotation.human_answers)
    return scores_by_name(annotation).get(answer, 0.0)


def scores_by_name(annotation: Annotation) -> dict[str, float]:
    """Return how right each label of a sample is, by its name; those that are not right are left out."""
    if isinstance(annotation, VqaAnnotation):
        return answer_scores(annotation.human_answers) if annotation.human_answers else annotation.answers or {}
    if isinstance(annotation, ClassAnnotation):
        return {annotation.name: 1.0}
    assert isinstance(annotation, Nlvr2Annotation) and annotation.label is not None
    return {TRUTH[annotation.label]: 1.0}


def commonest_score(annotations: Sequence[Annotation]) -> float:
    """Return the mean accuracy of the label whose mean accuracy is the highest: that of a guess without looking."""
    totals: dict[str, float] = defaultdict(float)
    for annotation in annotations:
        for name in scores_by_name(annotation):
            totals[name] += accuracy(annotation, name)
    return max(totals.values(), default=0.0) / len(annotations)


def identifier(annotation: Annotation, key: str) -> Identifier:
    """Return by which name a sample is known to the server of its data set; for classify its key."""
    if isinstance(annotation, VqaAnnotation):
        return annotation.question_id
    if isinstance(annotation, Nlvr2Annotation):
        return annotation.identifier
    return key if isinstance(annotation, ClassAnnotation) else annotation.image_id
