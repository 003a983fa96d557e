"""What the annotation of a sample says in labels: places in a list of answers or classes."""

from collections.abc import Mapping

from data_pipeline.samples.sample import BadSampleError
from data_pipeline.samples.tasks import Annotation, ClassAnnotation, Nlvr2Annotation, Task, VqaAnnotation

Target = int | Mapping[int, float]
"""The label of a sample: its class, or for a question the score of each answer that has one, by the answer's label."""
UNKNOWN_ANSWERS = "no answer of the question is in the answer list"


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

    def known_target(self, annotation: Annotation) -> Target | None:
        """Return `target`. Raises BadSampleError also for a question none of whose answers is in the list."""
        found = self.target(annotation)
        if found == {}:
            assert isinstance(annotation, VqaAnnotation)
            raise BadSampleError(f"{UNKNOWN_ANSWERS} ({', '.join(annotation.answers or ()):.60})")
        return found

    def check(self, annotation: Annotation) -> None:
        """Raise BadSampleError if the list does not have any answer, or the class, or the class at its label."""
        self.known_target(annotation)
        if isinstance(annotation, ClassAnnotation) and annotation.label != self._labels[annotation.name]:
            problem = "out of range" if annotation.label >= self.num_labels else "that of another class"
            raise BadSampleError(f"label is {problem} ({annotation.label} for {annotation.name!r:.60})")
