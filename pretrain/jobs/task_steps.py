"""The optimizer steps of finetuning: one for tasks that label a sample, one for captions, whose losses are of words.

The losses of the worst words may be left out of a step. Which words those are depends on the losses of the whole global
batch, so they come first: as in contrast.py a step then runs its micro-steps without gradients, all but the first,
chooses the words, and runs forward and backward of one micro-step after the other. The two forwards of a micro-step
agree to the bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from data_pipeline.samples.tasks import Task
from model.objective import IGNORE_INDEX
from model.task_losses import class_losses, vqa_losses, without_worst
from pretrain.jobs.job import Step, StepLoss
from pretrain.jobs.task_micro_step import TaskMicroStep
from pretrain.survival.agreement import gathered_from_ranks, mean_over_ranks, summed_over_hosts, summed_over_ranks

Network = Callable[..., Tensor]
"""The network of a task, or the engine around it."""


def logits_of(network: Network, micro_step: TaskMicroStep) -> Tensor:
    """Return the logits of the labels of each sample, (B, C) float32; of any task but caption."""
    return network(micro_step.inputs, micro_step.drop_path_scale)


def label_losses(logits: Tensor, micro_step: TaskMicroStep) -> Tensor:
    """Return the loss of each sample, (B,) float32; logits: (B, C)."""
    assert micro_step.targets is not None
    if micro_step.task == "vqa":
        return vqa_losses(logits, micro_step.targets)
    return class_losses(logits, micro_step.targets, micro_step.smoothing)


def word_losses(network: Network, micro_step: TaskMicroStep) -> Tensor:
    """Return the loss of each masked word of captions, (M,) float32."""
    return network(micro_step.inputs, micro_step.drop_path_scale, micro_step.words, micro_step.smoothing)


class LabelStep(Step):
    """The mean loss of the samples of a global batch, each of which has answers with scores or a class."""

    def __init__(self, task: Task, micro_steps: Sequence[TaskMicroStep], has_mixtures: bool):
        """has_mixtures: whether images are mixtures, of which no single class is right."""
        self.task, self.micro_steps, self.has_mixtures = task, micro_steps, has_mixtures
        self._score = torch.zeros(())

    def forward(self, engine: deepspeed.DeepSpeedEngine, micro_step: TaskMicroStep) -> tuple[Tensor, Tensor]:
        logits = logits_of(engine, micro_step)
        # means over equal parts of the global batch: DeepSpeed's average over them is the mean of the whole
        loss = label_losses(logits, micro_step).mean()
        assert micro_step.targets is not None
        score = score_of_likeliest(logits.detach(), micro_step.targets).mean()
        return loss, torch.stack([loss.detach(), score])

    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        loss, self._score = mean_over_ranks(torch.stack(metrics).mean(0)).unbind()
        return StepLoss(loss, {self.task: loss})

    def after_update(self, engine: deepspeed.DeepSpeedEngine, is_applied: bool) -> dict[str, Any]:
        """Log how good the likeliest labels of the batch were: the score of answers (vqa), the share of right ones."""
        return {} if self.has_mixtures else {"task": {"score" if self.task == "vqa" else "accuracy": self._score}}


class CaptionStep(Step):
    """The mean loss of the masked words of a global batch, on request without the worst of them."""

    def __init__(
        self, engine: deepspeed.DeepSpeedEngine, micro_steps: Sequence[TaskMicroStep], drop_worst_share: float = 0.0
    ):
        """drop_worst_share: share of the words that is left out, 0 for none. Sums counts over all ranks."""
        self.micro_steps = micro_steps
        # DeepSpeed divides gradients by ranks and micro-steps; these are parts of one mean already
        self._undo_averaging = dist.get_world_size() * len(micro_steps)
        self._first: Tensor | None = None
        self._kept: list[Tensor] | None = None
        """(M,) ones and zeros per micro-step, 1 for a word that counts. None: all of them count."""
        self._num_words: Tensor | int
        if drop_worst_share:
            with torch.no_grad():
                others = [word_losses(engine, micro_step) for micro_step in micro_steps[1:]]
            # with gradients, and last, so that its backward is next: a step of one micro-step has no second forward
            self._first = word_losses(engine, micro_steps[0])
            losses = [self._first.detach(), *others]
            kept, self._num_words = kept_words(torch.cat(losses), drop_worst_share)
            self._kept = list(kept.split([len(part) for part in losses]))
        else:
            labels = [micro_step.words.labels for micro_step in micro_steps if micro_step.words is not None]
            own = torch.stack([(part != IGNORE_INDEX).sum() for part in labels]).sum()
            self._num_words = summed_over_ranks(own)

    def forward(self, engine: deepspeed.DeepSpeedEngine, micro_step: TaskMicroStep) -> tuple[Tensor, Tensor]:
        losses, self._first = self._first, None
        if losses is None:
            losses = word_losses(engine, micro_step)
        if self._kept is not None:
            losses = losses * self._kept.pop(0)
        loss = losses.sum() / self._num_words
        return loss * self._undo_averaging, loss.detach()

    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        loss = summed_over_ranks(torch.stack(metrics).sum())
        return StepLoss(loss, {"caption": loss})


def score_of_likeliest(logits: Tensor, targets: Tensor) -> Tensor:
    """Return how good the label with the highest logit is for each sample, (B,) float32.

    logits: (B, C); targets: (B, C) scores, of which it is one, or (B,) int64 classes, for which it is 1 or 0.
    """
    likeliest = logits.argmax(1)
    if targets.is_floating_point():
        return targets.gather(1, likeliest[:, None])[:, 0].float()
    return (likeliest == targets).float()


@torch.no_grad()
def kept_words(losses: Tensor, drop_share: float) -> tuple[Tensor, int]:
    """Return which of this rank's words count, (M,) ones and zeros, and how many do over all ranks. All ranks call it.

    losses: (M,) float32, of all micro-steps of this rank in their order; drop_share: share of the words of all ranks
    that is left out, those with the highest losses.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    counts = summed_over_hosts([len(losses) if other == rank else 0 for other in range(world_size)])
    # ranks have different numbers of words: gathered in rows of one width, which the host, who knows them, cuts again
    rows = gathered_from_ranks(pad(losses, (0, max(counts) - len(losses)))[None])
    kept = without_worst(torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)]), drop_share)
    return kept.split(counts)[rank], max(1, int(sum(counts) * (1 - drop_share)))
