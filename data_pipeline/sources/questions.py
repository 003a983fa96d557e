"""Questions about images with their answers: VQAv2, Microsoft's index files, and JSON lines."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.samples.records import Record
from data_pipeline.sources.annotated import AnnotatedFields, Unique
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, field_of, records_of_entries
from data_pipeline.sources.text_lines import json_lines, open_text

NUM_HUMAN_ANSWERS = 10
"""Number of people who answered each question of VQAv2."""
SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Score of an answer by the number of people who gave it, of ten: VQA's accuracy, the mean of min(number / 3, 1) over
all choices of nine of the ten (visualqa.org/evaluation.html). Beyond the last, 1."""
MAJORITY = "multiple_choice_answer"
"""Field of VQAv2 with the commonest answer to a question."""


def questions_of_vqav2(path: Path, root: Path, annotations: Path | None) -> Iterator[Record]:
    """Yield the questions of v2_OpenEnded_mscoco_train2014_questions.json with the answers of
    v2_mscoco_train2014_annotations.json.

    root: folder of train2014/, or of its images. annotations: by default the file of that name beside the questions;
    there is none for a test split, whose questions have no answers.
    """
    refusal = _refusal(path, "VQAv2's questions (questions, data_subtype)")
    content = _json(path, refusal)
    subtype = content.get("data_subtype") if isinstance(content, dict) else None
    if not isinstance(subtype, str) or not isinstance(content.get("questions"), list):
        raise refusal("it has no list 'questions' with its 'data_subtype'")
    answered = _annotations_beside(path) if annotations is None else annotations
    answers: dict[int, dict[str, Any]] = {}
    if answered is not None:
        yield from _read_annotations(answered, answers)
    folder = subtype.replace("test-dev", "test")  # the questions of test-dev are about images of test2015
    folder_path = root / folder if (root / folder).is_dir() else root
    ids = Unique("question id")

    def question(entry: Entry) -> list[Record]:
        number, image_id = (field_of(entry.content, name, int) for name in ("question_id", "image_id"))
        text = field_of(entry.content, "question", str)
        ids.add(number)
        fields: dict[str, Any] = {"question_id": number, "image_id": image_id}
        if answered is not None:
            if number not in answers:
                raise EntryError(f"question has no annotation ({number})")
            fields |= answers.pop(number)
        image = folder_path / f"COCO_{folder}_{image_id:012d}.jpg"
        return [Record(str(number), image, text, metadata=fields, place=entry.place)]

    entries = (Entry(f"{n:08d}", f"{path}: questions[{n}]", one) for n, one in enumerate(content["questions"]))
    yield from records_of_entries(entries, question, refusal)
    for number in answers:
        yield Record(str(number), problem="annotation's question is not in the list of questions", place=str(answered))


def _annotations_beside(path: Path) -> Path | None:
    name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    beside = path.with_name(name)
    return beside if name != path.name and beside.is_file() else None


def majority_answers(path: Path) -> Iterator[str]:
    """Yield the commonest answer to each question of VQAv2's annotations, in their order."""
    answers: dict[int, dict[str, Any]] = {}
    for _ in _read_annotations(path, answers):
        pass  # annotations that do not fit are named when their questions are written
    for fields in answers.values():
        yield fields[MAJORITY]


def _read_annotations(path: Path, answers: dict[int, dict[str, Any]]) -> Iterator[Record]:
    """Add the answers of VQAv2's annotations by question id; yield a record with its problem for each damaged one."""
    refusal = _refusal(path, "VQAv2's annotations (annotations with question_id, answers)")
    content = _json(path, refusal)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise refusal("it has no list 'annotations'")

    def add(entry: Entry) -> tuple[()]:
        number = field_of(entry.content, "question_id", int)
        if number in answers:
            raise EntryError(f"question id occurs twice ({number})")
        human = human_answers(field_of(entry.content, "answers", list))
        commonest = field_of(entry.content, MAJORITY, str)
        answers[number] = {"answers": human_scores(human), "human_answers": human, MAJORITY: commonest}
        return ()

    entries = (Entry(f"{n:08d}", f"{path}: annotations[{n}]", one) for n, one in enumerate(content["annotations"]))
    return records_of_entries(entries, add, refusal)


def human_answers(answers: list[Any]) -> list[str]:
    """Return the answers of people to a question. Raises EntryError unless there are ten."""
    found = (answer.get("answer") if isinstance(answer, dict) else answer for answer in answers)
    words = [word for word in found if isinstance(word, str)]
    if len(answers) != len(words) or len(words) != NUM_HUMAN_ANSWERS:
        raise EntryError(f"'answers' is not a list of the answers of {NUM_HUMAN_ANSWERS} people ({len(words)} of them)")
    return words


def human_scores(answers: list[str]) -> dict[str, float]:
    """Return the score of each answer of ten people, for training: as they are written, as Microsoft's code does it."""
    return {word: SCORES[min(number, len(SCORES) - 1)] for word, number in Counter(answers).items()}


def questions_of_json_lines(path: Path, fields: AnnotatedFields, answers: list[str] | None) -> Iterator[Record]:
    """Yield the questions of JSON lines, Microsoft's (vqa.train.jsonl) or others.

    A line has image, question, and "answer": "red", or "answers" with scores {"red": 1.0} or of ten people, or
    neither, as in a test split. answers: the answer list, which Microsoft's labels refer to.
    """
    ids = Unique("question id")

    def question(entry: Entry) -> list[Record]:
        line = entry.content
        name, text = fields.image_name(line), fields.text_in(line)
        number = line.get("question_id", line.get("qid", int(entry.name)))
        ids.add(number)
        metadata: dict[str, Any] = {"question_id": number}
        if isinstance(found := line.get("answers"), list):
            metadata["human_answers"] = human_answers(found)
        if (scores := _scores_of_line(line, answers)) is not None:
            metadata["answers"] = scores
        return [Record(str(number), fields.root / name, text, metadata=metadata, place=entry.place)]

    refusal = _refusal(
        path, f"JSON lines of questions, with an image path in {fields.image!r} and a text in {fields.text!r}"
    )
    return records_of_entries(json_lines(path), question, refusal)


def _scores_of_line(line: dict[str, Any], answers: list[str] | None) -> dict[str, float] | None:
    if "labels" in line or "scores" in line:
        return _scores_of_labels(field_of(line, "labels", list), field_of(line, "scores", list), answers)
    found: dict[str, float] | list[Any] | None = line.get("answers")
    if isinstance(found, list):
        return human_scores(human_answers(found))
    if found is None and "answer" in line:  # beside answers it is only the commonest of them
        return {field_of(line, "answer", str): 1.0}
    is_scored = isinstance(found, dict) and all(isinstance(score, int | float) for score in found.values())
    if found is not None and not is_scored:
        raise EntryError(f"'answers' does not hold a score per answer ({found!r:.60})")
    return found


def _scores_of_labels(labels: list[Any], scores: list[Any], answers: list[str] | None) -> dict[str, float] | None:
    """Return the scores of answers by their labels in Microsoft's answer list; None if there are none."""
    if answers is None:
        raise ValueError("'labels' are those of an answer list; give it: --answers answer2label.txt")
    if len(labels) != len(scores):
        raise EntryError(f"there are {len(labels)} labels and {len(scores)} scores")
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(answers):
            raise EntryError(f"label of an answer is out of range ({label!r:.60} of {len(answers)} answers)")
    return {answers[label]: score for label, score in zip(labels, scores, strict=True)} or None


def _json(path: Path, refusal: Callable[[str], Exception]) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; give the right one")
    with open_text(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refusal(f"it is not valid JSON: {error}") from error


def _refusal(path: Path, what: str) -> Callable[[str], Exception]:
    return lambda first: RefusedFileError(path, f"does not hold {what}", first)
