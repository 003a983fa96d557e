"""Lists of answers and of classes beside weights. CPU, seconds."""

from pathlib import Path

import pytest

from data_pipeline.samples.answers import answer_lines, class_lines
from model.config import CaptionHead, ClassHead, DualHeads, VqaHead
from pretrain.formats.labels import labels_beside


def test_the_list_is_that_of_the_task(tmp_path: Path) -> None:
    for heads in (None, DualHeads(), CaptionHead(), VqaHead(2), ClassHead(3)):
        assert labels_beside(tmp_path, heads) is None
    (tmp_path / "answer2label.txt").write_text(answer_lines(["yes", "no"]))
    (tmp_path / "classes.txt").write_text(class_lines(["a", "b", "c"]))
    assert labels_beside(tmp_path, VqaHead(2)) == tmp_path / "answer2label.txt"
    assert labels_beside(tmp_path, ClassHead(3)) == tmp_path / "classes.txt"
    assert labels_beside(tmp_path, CaptionHead()) is None


def test_a_list_of_another_length_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "answer2label.txt").write_text(answer_lines(["yes", "no"]))
    with pytest.raises(ValueError, match=r"answer2label.txt has 2 lines, the weights beside it choose among 3; put"):
        labels_beside(tmp_path, VqaHead(3))
    (tmp_path / "answer2label.txt").write_text("yes\nno\n")
    with pytest.raises(ValueError, match=r"answer2label.txt:1 is not"):
        labels_beside(tmp_path, VqaHead(2))
