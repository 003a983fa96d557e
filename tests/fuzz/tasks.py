"""Sources of tasks, their lists of labels and annotations: read, skipped by reason, or refused in one sentence."""

import itertools
import json
import random
from pathlib import Path

from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, answer_lines, class_lines
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.samples.tasks import parse_annotation
from data_pipeline.shards.writer import SampleFilter, sample_members
from data_pipeline.sources.readers import SourceOptions
from data_pipeline.sources.task_readers import TaskOptions, TaskSource
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case
from tests.support.shard_files import GOOD
from tests.support.task_sources import annotation, karpathy, nocaps, question, statement, ten

MAX_RECORDS = 500
KEEP = SampleFilter()
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_questions.json", "v2_mscoco_annotations.json"


def make_case(folder: Path) -> Case:
    files = _files()
    contents = tuple(content for _, _, content in files)

    def case(rng: random.Random, folder: Path) -> str:
        kind, name, content = rng.choice(files)
        for list_name, lines in ((ANSWERS_NAME, answer_lines(["yes", "no"])), (CLASSES_NAME, class_lines(["a", "b"]))):
            damaged = mutated(lines.encode(), rng, contents) if rng.random() < 0.3 else lines.encode()
            (folder / list_name).write_bytes(damaged)
        for image in ("a.png", "b.png"):
            (folder / image).write_bytes(GOOD)
        for number in range(4):
            (folder / f"COCO_train2014_{number:012d}.jpg").write_bytes(GOOD)
        (folder / QUESTIONS).write_bytes(files[0][2])
        (folder / name).write_bytes(mutated(content, rng, contents))
        name = QUESTIONS if name == ANNOTATIONS else name
        classes = folder / CLASSES_NAME if rng.random() < 0.5 else None
        options = TaskOptions(min_answer_count=1, classes=classes)
        source = TaskSource(
            kind, str(folder / name), SourceOptions(), options, decode=lambda ids: " ".join(map(str, ids))
        )
        try:
            return _written(source)
        except ValueError:
            return "refused"

    return case


def _written(source: TaskSource) -> str:
    """Make the members of the samples of a source, and read their annotations as a run does."""
    kept = skipped = 0
    for record in itertools.islice(source.records(source.labels()), MAX_RECORDS):
        try:
            members = sample_members(record, source.kind, KEEP, None)
            assert members is not None
            parse_annotation(source.kind, members["json"])
            kept += 1
        except BadSampleError:
            skipped += 1
    return "kept" if kept else "all skipped" if skipped else "empty"


def _files() -> list[tuple[Kind, str, bytes]]:
    """Return small undamaged sources of every task; the images of some are there."""
    head = {"data_subtype": "train2014"}
    questions = {**head, "questions": [question(1000 * n, "what is it?") for n in range(4)]}
    annotations = {**head, "annotations": [annotation(1000 * n, "yes", ten(yes=7, no=3)) for n in range(4)]}
    captions = [{"image_id": n, "id": n, "caption": "a baby"} for n in range(4)]
    image = {"image": "a.png", "image2": "b.png", "image_path": "a.png", "image2_path": "b.png"}
    theirs = {**image, "text_segment": [5, 6], "labels": [0, 1], "scores": [1.0, 0.3], "image_id": 3}
    return [
        ("vqa", QUESTIONS, json.dumps(questions).encode()),
        ("vqa", ANNOTATIONS, json.dumps(annotations).encode()),
        ("vqa", "theirs.jsonl", _lines([{**theirs, "qid": n} for n in range(4)])),
        ("vqa", "own.jsonl", _lines([{**image, "question": "?", "answers": {"yes": 1.0}}, {**image, "question": "?"}])),
        ("nlvr2", "train.json", _lines([statement(f"train-{n}-0-0", "True", n) for n in range(4)])),
        ("nlvr2", "theirs.jsonl", _lines([{**theirs, "identifier": f"dev-{n}", "label": n % 2} for n in range(4)])),
        (
            "caption",
            "nocaps.json",
            json.dumps({"images": [nocaps(n) for n in range(4)], "annotations": captions}).encode(),
        ),
        (
            "caption",
            "dataset.json",
            json.dumps({"images": [karpathy(n, "train", ["a", "b"]) for n in range(4)]}).encode(),
        ),
        ("caption", "theirs.jsonl", _lines([theirs, theirs])),
        ("caption", "list.json", json.dumps([{"image": "a.png", "caption": "one"}]).encode()),
        ("label", "imagenet.jsonl", _lines([{**image, "label": n % 2} for n in range(4)])),
        ("label", "named.jsonl", _lines([{**image, "label": name} for name in "ab"])),
    ]


def _lines(entries: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()
