"""The list of answers, questions that it does not cover, and sources of no task."""

from pathlib import Path

import pytest

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.samples.answers import ANSWERS_NAME, answer_lines, read_answers
from data_pipeline.samples.sample import Kind
from data_pipeline.sources.readers import SourceOptions
from data_pipeline.sources.task_readers import TaskOptions, TaskSource
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.task_sources import annotation, question, ten, write_lines, write_vqav2


def source_of(path: Path | str, kind: Kind = "vqa", **options: object) -> TaskSource:
    return TaskSource(kind, str(path), SourceOptions(), TaskOptions(**options))  # type: ignore[arg-type]


def write_answered(root: Path, majorities: list[str], subtype: str = "train2014") -> Path:
    questions = [question(1000 * place, f"question {place}") for place in range(len(majorities))]
    annotations = [annotation(1000 * n, word, ten(**{word: 10})) for n, word in enumerate(majorities)]
    return write_vqav2(root, questions, annotations, subtype)


def test_the_list_counts_the_commonest_answers_of_all_splits_in_their_order(tmp_path: Path) -> None:
    source = write_answered(tmp_path, ["red"] * 5 + ["two"] * 4 + ["rare"])
    write_answered(tmp_path, ["2"] * 5 + ["Red."] * 4 + ["new"] * 9, "val2014")
    more = tmp_path / "v2_mscoco_val2014_annotations.json"
    assert source_of(source, more_annotations=(more,)).labels() == ["red", "2", "new"]
    assert source_of(source, min_answer_count=5).labels() == ["red"]
    with pytest.raises(ValueError, match="is the commonest of 9 questions; lower --min-answer-count, or give a list"):
        source_of(source).labels()


def test_the_empty_answer_is_in_the_list_as_in_microsofts(tmp_path: Path) -> None:
    source = write_answered(tmp_path, ["red"] * 9 + ["a"] * 9)
    assert source_of(source).labels() == ["red", ""]


def test_an_answer_that_no_people_gave_is_in_the_list_as_it_is_written(tmp_path: Path) -> None:
    line = {"image": "a.png", "question": "who?", "answer": "The two Dogs."}
    source = source_of(write_lines(tmp_path / "vqa.jsonl", [line] * 9))
    assert source.labels() == ["The two Dogs."]


def test_an_answer_of_a_sample_that_is_skipped_is_not_in_the_list(tmp_path: Path) -> None:
    line = {"image": "a.png", "question": "who?"}
    scores: list[dict[str, object]] = [{"dog": 1}, {"cat": 2}, {"half \ud800": 1}, {"bird": 1, "": "x"}]
    source = write_lines(tmp_path / "vqa.jsonl", [{**line, "answers": found} for found in scores])
    assert source_of(source, min_answer_count=1).labels() == ["dog"]


def test_questions_without_a_known_answer_are_kept_or_skipped_with_their_answers(tmp_path: Path) -> None:
    source = write_answered(tmp_path, ["red", "mauve", "red"])
    (tmp_path / "list.txt").write_text(answer_lines(["red"]))
    for unknown, num_kept in (("keep", 3), ("skip", 2)):
        options = TaskOptions(answers=tmp_path / "list.txt", unknown_answers=unknown)  # type: ignore[arg-type]
        out = tmp_path / unknown
        report = write_shards(ShardOptions("vqa", str(source), out, tasks=options, num_workers=1))
        assert report.num_kept == num_kept and read_answers(out / ANSWERS_NAME) == ["red"]
        reasons = report.skipped | check_shards(CheckOptions(str(out), num_workers=1, num_shown=0)).report.skipped
        assert dict(reasons) == {"no answer of the question is in the answer list": 1}
    assert report.examples == {"no answer of the question is in the answer list": f"{source}: questions[1] (mauve)"}


def test_shards_are_written_again_if_an_annotation_has_changed(tmp_path: Path) -> None:
    options = ShardOptions("vqa", str(write_answered(tmp_path, ["red"] * 9)), tmp_path / "out", num_workers=1)
    write_shards(options)
    first = (tmp_path / "out/000000.tar").read_bytes()
    write_answered(tmp_path, ["pink"] * 9)
    write_shards(options)
    assert (tmp_path / "out/000000.tar").read_bytes() != first
    assert read_answers(tmp_path / "out" / ANSWERS_NAME) == ["pink"]


def test_shards_are_written_again_if_an_answer_has_become_known(tmp_path: Path) -> None:
    more = (tmp_path / "v2_mscoco_val2014_annotations.json",)
    tasks = TaskOptions(min_answer_count=2, unknown_answers="skip", more_annotations=more)
    source = write_answered(tmp_path, ["red", "red", "pink"])
    options = ShardOptions("vqa", str(source), tmp_path / "out", tasks=tasks, num_workers=1)
    for others, num_kept in (["blue"], 2), (["pink"], 3):
        write_answered(tmp_path, others, "val2014")
        assert write_shards(options).num_kept == num_kept


@pytest.mark.parametrize("kind", ["vqa", "nlvr2", "caption", "label"])
def test_sources_that_give_no_samples_of_a_task_are_refused(tmp_path: Path, kind: Kind) -> None:
    path = write_lines(tmp_path / "table.csv", [{}])
    with pytest.raises(ValueError, match=f"gives no samples of kind '{kind}'"):
        list(source_of(path, kind).records(None))
    with pytest.raises(ValueError, match=r"does not exist; give a folder, a file, or scenes:COUNT"):
        list(source_of(tmp_path / "nowhere.jsonl", kind).records(None))


def test_captions_are_unescaped_on_request(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "captions.jsonl", [{"image": "a.jpg", "caption": "salt &amp; pepper"}])
    source = TaskSource("caption", str(path), SourceOptions(unescape_html=True), TaskOptions())
    (record,) = source.records(None)
    assert record.metadata["captions"] == ["salt & pepper"] and record.place == f"{path}:1"
