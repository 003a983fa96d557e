"""The reader of each source of a task, by its kind and the form of its file.

| SOURCE         | vqa               | nlvr2             | caption                        | label            |
| -------------- | ----------------- | ----------------- | ------------------------------ | ---------------- |
| a folder, .tar | -                 | -                 | -                              | class folders    |
| .json          | VQAv2's questions | NLVR2's           | COCO, NoCaps, Karpathy, a list | -                |
| .jsonl         | Microsoft's, or   | Microsoft's, or   | Microsoft's, or image and      | Microsoft's, or  |
|                | image, question,  | image, image2,    | caption or captions            | image and label  |
|                | answer or answers | sentence, label   |                                |                  |

Microsoft's are the index files of its finetuning code (beit3/datasets.py). Labels refer to a list of answers or
classes: one that is given, or one made from the source.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from data_pipeline.samples.answer_words import normalized_answer
from data_pipeline.samples.answers import ANSWERS_NAME, read_answers, read_classes
from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.scenes import Split
from data_pipeline.samples.task_labels import UNKNOWN_ANSWERS
from data_pipeline.samples.tasks import VqaAnnotation, checked_annotation
from data_pipeline.settings.ranges import Count, check_ranges
from data_pipeline.sources.annotated import AnnotatedFields, Decode
from data_pipeline.sources.captions import captions_of_json, captions_of_json_lines
from data_pipeline.sources.files import form
from data_pipeline.sources.labels import images_with_classes, labelled, sorted_classes
from data_pipeline.sources.questions import MAJORITY, majority_answers, questions_of_json_lines, questions_of_vqav2
from data_pipeline.sources.readers import DRAWN, SourceOptions, finished, read_records
from data_pipeline.sources.statements import statements_of_json_lines

TEXT_FIELDS: dict[Kind, str] = {"vqa": "question", "nlvr2": "sentence"}
"""Field of a JSON line with the text of a task; for captions --caption-column names it."""


@dataclass(frozen=True)
class TaskOptions:
    """Options for reading the source of a task."""

    annotations: Path | None = None
    """Answers to VQAv2's questions. By default the file of their name beside them, if there is one."""
    answers: Path | None = None
    """List of answers that the labels of kind vqa refer to. By default it is made from SOURCE."""
    min_answer_count: Count = 9
    """Minimum number of questions whose commonest answer it is for an answer to enter the list that is made."""
    more_annotations: tuple[Path, ...] = ()
    """VQAv2's annotations of further splits, whose answers are counted for the list as well: Microsoft's list of 3,129
    answers is made from those of train2014 and val2014."""
    unknown_answers: Literal["keep", "skip"] = "keep"
    """Whether questions none of whose answers is in the list are kept, as an evaluation needs them, or skipped, as
    Microsoft's code does before training."""
    classes: Path | None = None
    """List of classes that the labels of kind label refer to. By default it is made from SOURCE."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check_used(self, kind: Kind, source: str) -> None:
        """Raise ValueError if an option is set that a kind or source does not read."""
        for option in fields(self):
            name, reader = option.name, "label" if option.name == "classes" else "vqa"
            if getattr(self, name) == option.default:
                continue
            if kind != reader:
                raise ValueError(f"{name} is for kind {reader}, not for {kind}; leave it out")
            if source.startswith(DRAWN):
                raise ValueError(f"{name} is for files: drawn scenes have a list of their own; leave it out")
            if name == "annotations" and form(source) != ".json":
                raise ValueError(f"annotations are those of VQAv2's .json, not of {source}; leave it out")
            if name in ("min_answer_count", "more_annotations") and self.answers is not None:
                raise ValueError(f"{name} is for a list that is made, but answers gives one; leave one of them out")


@dataclass(frozen=True)
class TaskSource:
    """A source of samples of a task."""

    kind: Kind
    source: str
    """Path of a folder or file, or scenes:COUNT[:SEED]."""
    columns: SourceOptions
    options: TaskOptions
    split: Split = "train"
    """Side of drawn scenes."""
    decode: Decode | None = None
    """Decoder of Microsoft's token ids; None if no text tokenizer was given."""

    def labels(self) -> list[str] | None:
        """Return the answers or classes that labels refer to, in their order; None if there are no labels.

        Reads the whole source if no list is given. Raises ValueError if a list is damaged, or would be empty.
        """
        if self.source.startswith(DRAWN):
            return LABELS.get(self.kind)
        if self.kind == "label":
            given = self.options.classes
            return self._made_classes() if given is None else read_classes(given)
        if self.kind == "vqa":
            given = self._given_answers()
            return self._made_answers() if given is None else read_answers(given)
        return None

    def records(self, labels: list[str] | None) -> Iterator[Record]:
        """Yield every sample of the source, in a fixed order. labels: as `labels` returns them.

        Raises ValueError if the source does not exist, cannot be read or gives no samples of this kind.
        """
        if self.source.startswith(DRAWN):
            return read_records(self.kind, self.source, self.columns, self.split)
        # numbers in JSON lines are places in a list that was given, and names of classes in one that was made of them
        found = self._read(None if self.kind == "label" and self.options.classes is None else labels)
        if self.kind == "label":
            numbers = {name: label for label, name in enumerate(labels or ())}
            found = (labelled(record, numbers) for record in found)
        elif self.kind == "vqa" and self.options.unknown_answers == "skip":
            known = set(labels or ())
            found = (_with_known_answer(record, known) for record in found)
        return finished(found, self.source, self.columns.unescape_html)

    def _read(self, labels: list[str] | None) -> Iterator[Record]:
        """Yield the samples as the source has them."""
        path, kind = self._path, self.kind
        if not path.exists():
            raise ValueError(f"source {path} does not exist; give a folder, a file, or scenes:COUNT")
        fields = self._fields()
        readers: dict[tuple[Kind, str], Callable[[], Iterator[Record]]] = {
            ("vqa", ".json"): lambda: questions_of_vqav2(path, fields.root, self.options.annotations),
            ("vqa", ".jsonl"): lambda: questions_of_json_lines(path, fields, labels),
            ("nlvr2", ".json"): lambda: statements_of_json_lines(path, fields),
            ("nlvr2", ".jsonl"): lambda: statements_of_json_lines(path, fields),
            ("caption", ".json"): lambda: captions_of_json(path, fields, self.columns.image_splits),
            ("caption", ".jsonl"): lambda: captions_of_json_lines(path, fields),
            ("label", ".tar"): lambda: images_with_classes(path, fields, labels),
            ("label", ".jsonl"): lambda: images_with_classes(path, fields, labels),
            ("label", "folder"): lambda: images_with_classes(path, fields, labels),
        }
        reader = readers.get((kind, "folder" if path.is_dir() else form(path)))
        if reader is None:
            raise ValueError(f"source {path} gives no samples of kind {kind!r}; docs/data.md lists what does")
        return reader()

    @property
    def _path(self) -> Path:
        return Path(self.source)

    def _fields(self) -> AnnotatedFields:
        columns, path = self.columns, self._path
        root = columns.image_root or (path if path.is_dir() else path.parent)
        text = TEXT_FIELDS.get(self.kind, columns.caption_column)
        return AnnotatedFields(root, columns.image_column, text, self.decode)

    def _given_answers(self) -> Path | None:
        """Return the answer list that was given, or that lies beside an index file of Microsoft's."""
        beside = self._path.with_name(ANSWERS_NAME)
        is_theirs = form(self.source) == ".jsonl" and beside.is_file()
        return self.options.answers or (beside if is_theirs else None)

    def _made_answers(self) -> list[str] | None:
        options = self.options
        commonest = list(_commonest_answers(self._read(None)))
        if not commonest:
            return None  # a test split
        for path in options.more_annotations:
            commonest += map(normalized_answer, majority_answers(path))
        counts = Counter(commonest)  # in the order of first occurrence, as Microsoft's list
        # one of Microsoft's 3,129 is empty: what the normalization leaves of "a", the letter
        answers = [answer for answer, count in counts.items() if count >= options.min_answer_count]
        if not answers:
            raise ValueError(
                f"no answer in {self.source} is the commonest of {options.min_answer_count} questions; lower "
                "--min-answer-count, or give a list with --answers"
            )
        return answers

    def _made_classes(self) -> list[str]:
        names = {str(record.metadata["class"]) for record in self._read(None) if record.problem is None}
        if not names:
            raise ValueError(f"{self.source} holds no image with a class; give class folders, or lines with a label")
        return sorted_classes(names)


def _commonest_answers(records: Iterable[Record]) -> Iterator[str]:
    """Yield the commonest answer to each question: the first of the highest score, unless the source names it.

    Answers of people are normalized, as Microsoft's code does it; others are names that a source gives to its labels.
    """
    normalized = lru_cache(maxsize=None)(normalized_answer)
    for record in records:
        if record.problem is None and (scores := _sound_scores(record)):
            answer = record.metadata.get(MAJORITY) or max(scores, key=scores.__getitem__)
            if not scores.get(answer, 1.0):
                continue  # no answer is right
            yield normalized(answer) if "human_answers" in record.metadata else answer


def _sound_scores(record: Record) -> dict[str, float] | None:
    """Return the score of each answer to a question; None if it has no answers, or is skipped as they are not sound."""
    try:
        annotation = checked_annotation("vqa", record.metadata)
    except BadSampleError:
        return None
    assert isinstance(annotation, VqaAnnotation)
    return annotation.answers


def _with_known_answer(record: Record, known: set[str]) -> Record:
    """Return a question, with a problem if it has answers, but none of the list."""
    scores = record.metadata.get("answers")
    if record.problem is None and scores is not None and known.isdisjoint(scores):
        return replace(record, problem=f"{UNKNOWN_ANSWERS} ({', '.join(scores):.60})")
    return record
