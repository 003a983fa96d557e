"""Labels by the list of answers or classes, and annotations that do not fit it."""

import pytest

from data_pipeline.samples.sample import BadSampleError
from data_pipeline.samples.task_labels import TaskLabels
from data_pipeline.samples.tasks import CaptionAnnotation, ClassAnnotation, Nlvr2Annotation, VqaAnnotation

ANSWERS = TaskLabels("vqa", ["yes", "no", "red"])
CLASSES = TaskLabels("classify", ["tench", "goldfish"])


def test_a_question_has_the_scores_of_the_answers_that_are_in_the_list() -> None:
    assert ANSWERS.num_labels == 3
    assert ANSWERS.target(VqaAnnotation(1, {"red": 1.0, "mauve": 0.6, "no": 0.3})) == {2: 1.0, 1: 0.3}
    assert ANSWERS.target(VqaAnnotation(1, None)) is None
    ANSWERS.check(VqaAnnotation(1, None))
    with pytest.raises(BadSampleError, match=r"no answer of the question is in the answer list \(mauve, pink\)"):
        ANSWERS.check(VqaAnnotation(1, {"mauve": 1.0, "pink": 0.3}))


def test_a_class_has_its_place_in_the_list_whatever_its_shards_were_written_with() -> None:
    assert CLASSES.target(ClassAnnotation("goldfish", 7)) == 1
    with pytest.raises(BadSampleError, match=r"label is out of range \(7 for 'goldfish'\)"):
        CLASSES.check(ClassAnnotation("goldfish", 7))
    with pytest.raises(BadSampleError, match=r"label is that of another class \(0 for 'goldfish'\)"):
        CLASSES.check(ClassAnnotation("goldfish", 0))
    with pytest.raises(BadSampleError, match=r"class is not in the class list \('shark'\)"):
        CLASSES.target(ClassAnnotation("shark", 0))


def test_statements_and_captions_need_no_list() -> None:
    labels = TaskLabels("nlvr2", None)
    assert labels.num_labels == 2
    assert [labels.target(Nlvr2Annotation("a", label)) for label in (0, 1, None)] == [0, 1, None]
    assert TaskLabels("caption", None).target(CaptionAnnotation(1, ("a cat",))) is None
