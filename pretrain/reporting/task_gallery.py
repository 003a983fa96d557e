"""Held-out samples of a task with what a finetuned network says of them, and what is right."""

from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.samples.tasks import Annotation, CaptionAnnotation
from pretrain.conversion.evaluated_task import prepare
from pretrain.evaluation.choices import accuracy, scores_by_name
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.options import EvaluateOptions
from pretrain.evaluation.task_samples import is_labelled
from pretrain.reporting.embedded import data_uri

MOST_RIGHT = 3
"""Right answers that are shown, the best."""


@dataclass(frozen=True)
class ShownAnswer:
    """A sample, and what the network says."""

    images: list[str]
    """Data URIs: two of a statement, else one."""
    text: str
    """Question or statement; empty for the other tasks."""
    said: str
    right: str
    """Right answers, or captions of people."""
    is_right: bool | None
    """Whether the answer has a score above 0; None for a caption, and if nothing is known to be right."""


@torch.no_grad()
def task_gallery(checkpoint: Path, held_out: Path, num_samples: int) -> list[ShownAnswer]:
    """Return the first held-out samples with what the network of a checkpoint says.

    held_out: shards of its task. Raises ValueError if they are not, or have no answers.
    """
    options = EvaluateOptions(checkpoint, held_out=str(held_out), num_samples=num_samples)
    found = prepare(options, torch.device("cpu"), check_shards=True)
    samples = found.evaluation.samples
    evaluated = found.evaluation.evaluate(found.network, Ranks())
    shown = []
    for place, (_, said) in zip(evaluated.places, evaluated.results, strict=True):
        batch, _ = samples.batch([place])
        annotation, reader = samples.annotations[place], samples.readers[0].reader
        assert annotation is not None
        images = [batch.images, *([] if batch.second_images is None else [batch.second_images])]
        text = reader.text(place) if samples.task in ("vqa", "nlvr2") else ""
        right, is_right = _compared(annotation, said)
        shown.append(ShownAnswer([data_uri(image[0]) for image in images], text, said, right, is_right))
    return shown


def _compared(annotation: Annotation, said: str) -> tuple[str, bool | None]:
    """Return what is right, and whether that was said."""
    if isinstance(annotation, CaptionAnnotation):
        return "; ".join(annotation.captions[:MOST_RIGHT]), None
    if not is_labelled(annotation):
        return "", None
    scores = scores_by_name(annotation)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:MOST_RIGHT]
    return ", ".join(best), accuracy(annotation, said) > 0
