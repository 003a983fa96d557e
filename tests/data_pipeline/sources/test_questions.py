"""Questions of VQAv2, of Microsoft's index files and of JSON lines, and everything that can be wrong with one."""

from pathlib import Path

import pytest

from data_pipeline.samples.answers import ANSWERS_NAME, answer_lines, read_answers
from data_pipeline.samples.records import Record
from data_pipeline.samples.tasks import VqaAnnotation
from data_pipeline.sources.annotated import AnnotatedFields
from data_pipeline.sources.entries import EntryError, RefusedFileError
from data_pipeline.sources.questions import (
    human_answers,
    human_scores,
    majority_answers,
    questions_of_json_lines,
    questions_of_vqav2,
)
from data_pipeline.sources.task_readers import TaskOptions
from data_pipeline.texts.tokenizer import TextTokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import keys, written
from tests.support.task_sources import (
    annotation,
    draw_image,
    question,
    reader_of,
    ten,
    write_lines,
    write_vqav2,
)
from tests.support.tiny_run import TinyData


def problems(records: list[Record]) -> list[str]:
    return [record.problem for record in records if record.problem is not None]


def lines_of(path: Path, answers: list[str] | None = None) -> list[Record]:
    return list(questions_of_json_lines(path, AnnotatedFields(path.parent, "image", "question"), answers))


def test_vqav2_becomes_shards_with_the_scores_of_its_ten_answers(tmp_path: Path) -> None:
    questions = [question(458752000, "What is this photo taken looking through?"), question(262146001, "Is it red?")]
    annotations = [
        annotation(458752000, "net", ten(net=6, netting=2, mesh=1, fence=1)),
        annotation(262146001, "Yes.", ten(yes=7, no=3)),
    ]
    source = write_vqav2(tmp_path, questions, annotations)
    index = written("vqa", source, tmp_path / "out", tasks=TaskOptions(min_answer_count=1))
    assert keys(index) == ["458752000", "262146001"]
    reader = reader_of(tmp_path / "out")
    assert [reader.text(0), reader.text(1)] == [one["question"] for one in questions]
    expected = {"net": 1.0, "netting": 0.6, "mesh": 0.3, "fence": 0.3}
    people = ("net",) * 6 + ("netting",) * 2 + ("mesh", "fence")
    assert reader.annotation(0) == VqaAnnotation(458752000, expected, people)
    assert reader.annotation(1) == VqaAnnotation(262146001, {"yes": 1.0, "no": 0.9}, ("yes",) * 7 + ("no",) * 3)
    images = [tmp_path / f"train2014/COCO_train2014_{number:012d}.jpg" for number in (458752, 262146)]
    assert [reader.image_bytes(0), reader.image_bytes(1)] == [path.read_bytes() for path in images]
    assert read_answers(tmp_path / "out" / ANSWERS_NAME) == ["net", "yes"]  # normalized, in the order of the questions


def test_questions_of_a_test_split_have_no_answers_and_test_dev_is_about_images_of_test2015(tmp_path: Path) -> None:
    source = write_vqav2(tmp_path, [question(1000, "Is it?")], None, "test-dev2015")
    (record,) = questions_of_vqav2(source, tmp_path, None)
    assert record.image == tmp_path / "test2015" / "COCO_test2015_000000000001.jpg" and record.image.is_file()
    written("vqa", source, tmp_path / "out")
    assert reader_of(tmp_path / "out").annotation(0) == VqaAnnotation(1000, None)
    assert not (tmp_path / "out" / ANSWERS_NAME).exists()


def test_each_bad_question_and_annotation_of_vqav2_is_named(tmp_path: Path) -> None:
    good = annotation(1000, "red", ten(red=10))
    source = write_vqav2(
        tmp_path,
        [question(1000, "What color?"), question(1000, "Again?"), question(2000, "Unanswered?")],
        [good, good, annotation(3000, "red", ten(red=10)), annotation(4000, "red", ten(red=9))],
    )
    found = list(questions_of_vqav2(source, tmp_path, None))
    assert problems(found) == [
        "question id occurs twice (1000)",
        "'answers' is not a list of the answers of 10 people (9 of them)",
        "question id occurs twice (1000)",
        "question has no annotation (2000)",
        "annotation's question is not in the list of questions",
    ]
    places = [record.place.removeprefix(f"{tmp_path}/") for record in found if record.problem]
    assert places[0] == "v2_mscoco_train2014_annotations.json: annotations[1]"
    assert places[2] == "v2_OpenEnded_mscoco_train2014_questions.json: questions[1]"
    assert list(majority_answers(tmp_path / "v2_mscoco_train2014_annotations.json")) == ["red", "red"]


def test_microsofts_index_file_is_read_by_its_answer_list_and_the_tokenizer(
    tmp_path: Path, tiny_data: TinyData
) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    draw_image(tmp_path / "train2014/COCO_train2014_000000000009.jpg")
    line = {
        "image_path": "train2014/COCO_train2014_000000000009.jpg",
        "text_segment": tokenizer.encode("a red circle"),
        "labels": [2, 0],
        "scores": [1.0, 0.3],
        "qid": 9000,
    }
    of_another = {**line, "text_segment": [tokenizer.vocab_size], "qid": 9002}  # a tokenizer of more words
    unlabelled = {**line, "labels": [], "scores": [], "qid": 9001}
    source = write_lines(tmp_path / "vqa.train.jsonl", [line, unlabelled, of_another])
    (tmp_path / ANSWERS_NAME).write_text(answer_lines(["yes", "no", "red"]))
    options = ShardOptions("vqa", str(source), tmp_path / "out", text_tokenizer=tokenizer.path, num_workers=1)
    assert dict(write_shards(options).skipped) == {f"token id is not one of {tokenizer.path}": 1}
    reader = reader_of(tmp_path / "out")
    assert reader.annotation(0) == VqaAnnotation(9000, {"red": 1.0, "yes": 0.3}) and reader.text(0) == "a red circle"
    assert reader.annotation(1) == VqaAnnotation(9001, None)
    assert read_answers(tmp_path / "out" / ANSWERS_NAME) == ["yes", "no", "red"]
    with pytest.raises(ValueError, match="holds token ids; give the text tokenizer that made them: --text-tokenizer"):
        written("vqa", source, tmp_path / "without")


def test_labels_without_an_answer_list_and_labels_out_of_its_range_are_named(tmp_path: Path) -> None:
    good = {"image": "a.jpg", "question": "what?", "labels": [1], "scores": [1.0]}
    bad = [{**good, "labels": [label]} for label in (2, -1, True)] + [{**good, "scores": []}]
    path = write_lines(tmp_path / "q.jsonl", [good, *bad])
    assert problems(lines_of(path, ["yes", "no"])) == [
        "label of an answer is out of range (2 of 2 answers)",
        "label of an answer is out of range (-1 of 2 answers)",
        "label of an answer is out of range (True of 2 answers)",
        "there are 1 labels and 0 scores",
    ]
    with pytest.raises(ValueError, match=r"give it: --answers answer2label\.txt"):
        lines_of(path)


def test_own_lines_have_one_answer_scores_or_the_answers_of_ten_people(tmp_path: Path) -> None:
    line = {"image": "a.jpg", "question": "what?"}
    answers: list[dict[str, object]] = [
        {"answer": "red"},
        {"answers": {"red": 0.5}},
        {"answers": ["red"] * 7 + ["pink"] * 3},
        {},
        {"answer": "red", "answers": ["red"] * 6 + ["blue"] * 4},  # the commonest beside all, as VQAv2 has it
    ]
    path = write_lines(tmp_path / "q.jsonl", [{**line, **answer} for answer in answers])
    found = [record.metadata for record in lines_of(path)]
    expected = [{"red": 1.0}, {"red": 0.5}, {"red": 1.0, "pink": 0.9}, None, {"red": 1.0, "blue": 1.0}]
    assert [fields.get("answers") for fields in found] == expected
    assert [fields["question_id"] for fields in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_a_score_is_the_mean_accuracy_over_the_choices_of_nine_people(count: int, score: float) -> None:
    found = human_scores(["red"] * count + [f"other {number}" for number in range(10 - count)])["red"]
    without_one = [(count - 1 if place < count else count) for place in range(10)]
    assert found == score == pytest.approx(sum(min(1, others / 3) for others in without_one) / 10)


def test_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", [{"image": "a.jpg", "text": "what?"}])
    with pytest.raises(RefusedFileError, match="no text in field 'question'"):
        lines_of(path)
    path = write_lines(tmp_path / "v2_questions.json", [{"annotations": []}])
    with pytest.raises(RefusedFileError, match="it has no list 'questions' with its 'data_subtype'"):
        list(questions_of_vqav2(path, tmp_path, None))
    for missing, problem in ((tmp_path / "none.json", "does not exist"), (tmp_path, "is not a file")):
        with pytest.raises(ValueError, match=rf"{missing} {problem}; give the right one"):
            list(majority_answers(missing))
    with pytest.raises(EntryError, match="9 of them"):
        human_answers(["red"] * 9)
