"""Samples of a task as a network sees them: labels by the answer or class list, and views without augmentation."""

from dataclasses import dataclass

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.dataset import encoded
from data_pipeline.loading.task_batch import LoadedTaskSample, Target
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.samples.tasks import Annotation, ClassAnnotation, Nlvr2Annotation, Task, VqaAnnotation
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import TextTokenizer


class TaskLabels:
    """The labels of a task: places in its list of answers or classes."""

    def __init__(self, task: Task, names: list[str] | None):
        """names: the answers or classes, as `labels_of` returns them; None for tasks nlvr2 and caption."""
        self.task: Task = task
        self.names = names
        self.num_labels = len(names) if names is not None else 2 if task == "nlvr2" else 0
        """Number of answers, or of classes; 2 for nlvr2, 0 for caption."""
        self._labels = {name: label for label, name in enumerate(names or ())}

    def target(self, annotation: Annotation) -> Target | None:
        """Return the label of a sample: a class, or the scores of the answers that are in the list, maybe none.

        None for a caption, and for a sample of a test split. Raises BadSampleError for a class that is not in the list.
        """
        if isinstance(annotation, VqaAnnotation):
            scores = annotation.answers
            if scores is None:
                return None
            return {self._labels[answer]: score for answer, score in scores.items() if answer in self._labels}
        if isinstance(annotation, ClassAnnotation):
            # by its name: several folders may have been written with different lists
            if annotation.name not in self._labels:
                raise BadSampleError(f"class is not in the class list ({annotation.name!r:.60})")
            return self._labels[annotation.name]
        return annotation.label if isinstance(annotation, Nlvr2Annotation) else None


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
    image_size: int
    """Side of the images in pixels."""
    max_image_pixels: int

    def sample(self, place: int) -> EvaluatedSample:
        """Return a sample, with its place in the index as its id. Raises BadSampleError if it cannot be used."""
        reader, transform = self.reader, ImageTransform(self.image_size, 1, 0, False, self.max_image_pixels)
        annotation, task = reader.annotation(place), self.labels.task
        text = reader.text(place) if task in ("vqa", "nlvr2") else None
        texts = reader.texts(place) if task == "caption" else [] if text is None else [text]
        ids = encoded(self.tokenizer, texts[0], self.text_length) if texts and self.tokenizer is not None else None
        loaded = LoadedTaskSample(
            sample_id=place,
            key=reader.key(place),
            pixels=transform.center(reader.image_bytes(place)),
            second_pixels=transform.center(reader.image_bytes(place, "image2")) if task == "nlvr2" else None,
            ids=ids,
            target=self.labels.target(annotation),
        )
        return EvaluatedSample(loaded, annotation, text)
