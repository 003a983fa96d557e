"""Lists of answers and classes: Microsoft's form, and files that are not lists."""

from pathlib import Path

import pytest

from data_pipeline.samples.answers import (
    ANSWERS_NAME,
    CLASSES_NAME,
    answer_lines,
    label_list,
    read_answers,
    read_classes,
    read_list_beside,
)


def test_lists_are_json_lines_as_microsofts_code_writes_and_reads_them(tmp_path: Path) -> None:
    assert answer_lines(["yes", 'a "b" \u00e9']) == (
        '{"answer": "yes", "label": 0}\n{"answer": "a \\"b\\" \\u00e9", "label": 1}\n'
    )
    for kind, name, read in (("vqa", ANSWERS_NAME, read_answers), ("label", CLASSES_NAME, read_classes)):
        written_name, content = label_list(kind, ["yes", "caf\u00e9"])  # type: ignore[arg-type]
        assert written_name == name
        (tmp_path / name).write_text(content)
        assert read(tmp_path / name) == read_list_beside(tmp_path, kind) == ["yes", "caf\u00e9"]  # type: ignore[arg-type]
    assert read_list_beside(tmp_path, "caption") is None and read_list_beside(tmp_path / "other", "vqa") is None


def test_a_label_may_be_a_text_as_in_some_copies_of_microsofts_file(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('{"answer": "yes", "label": "0"}\n')
    assert read_answers(tmp_path / "list.txt") == ["yes"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no answer; give another list"),
        ("yes\nno\n", r'list.txt:1 is not {"answer": ..., "label": 0}'),
        ('{"answer": "yes", "label": 0}\n{"answer": "no", "label": 2}\n', r"list.txt:2 is not "),
        ('{"class": "yes", "label": 0}\n', r"list.txt:1 is not "),
        ('{"answer": 5, "label": 0}\n', r"list.txt:1 is not "),
        ("[" * 5000, r"list.txt:1 is not "),
        ('{"answer": "a", "label": 0}\n{"answer": "a", "label": 1}\n', r"list.txt:2 repeats the answer 'a' of line 1"),
    ],
)
def test_a_file_that_is_not_a_list_is_named_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ValueError, match=problem):
        read_answers(tmp_path / "list.txt")


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.txt does not exist; data_pipeline.write_shards writes it"):
        read_classes(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="is not a file"):
        read_classes(tmp_path)
