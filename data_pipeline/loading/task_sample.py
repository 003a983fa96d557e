"""Samples of a task as a network sees them in evaluation, without augmentation."""

from dataclasses import dataclass

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.dataset import encoded
from data_pipeline.loading.task_batch import LoadedTaskSample
from data_pipeline.samples.task_labels import TaskLabels
from data_pipeline.samples.tasks import Annotation
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import TextTokenizer

__all__ = ["EvaluatedSample", "TaskLabels", "TaskReader"]


@dataclass(frozen=True)
class EvaluatedSample:
    """A sample of a task without augmentation, and all that is known about it."""

    loaded: LoadedTaskSample
    """As the network sees it. For task caption its ids are those of the first caption, None if there is none."""
    annotation: Annotation
    """Answers, label or captions to compare with, and the id of the sample in result files."""
    text: str | None
    """Question or statement; None for tasks caption and classify."""


@dataclass(frozen=True)
class TaskReader:
    """Reads samples of a task without augmentation, as evaluation needs them."""

    reader: SampleReader
    labels: TaskLabels
    tokenizer: TextTokenizer | None
    """None for task classify."""
    text_length: int
    transform: ImageTransform
    """Transform whose `center` gives the pixels."""

    def sample(self, place: int) -> EvaluatedSample:
        """Return a sample, with its place in the index as its id. Raises BadSampleError if it cannot be used."""
        reader, view = self.reader, self.transform.center
        annotation, task = reader.annotation(place), self.labels.task
        text = reader.text(place) if task in ("vqa", "nlvr2") else None
        texts = reader.texts(place) if task == "caption" else [] if text is None else [text]
        ids = encoded(self.tokenizer, texts[0], self.text_length) if texts and self.tokenizer is not None else None
        loaded = LoadedTaskSample(
            sample_id=place,
            key=reader.key(place),
            pixels=view(reader.image_bytes(place)),
            second_pixels=view(reader.image_bytes(place, "image2")) if task == "nlvr2" else None,
            ids=ids,
            target=self.labels.target(annotation),
        )
        return EvaluatedSample(loaded, annotation, text)
