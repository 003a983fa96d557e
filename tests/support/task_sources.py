"""Small sources of tasks in the layouts in which they are published; each image has a color of its own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader


def draw_image(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (number, 40, 200)).save(path)


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_lines(path: Path, lines: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def reader_of(folder: Path) -> SampleReader:
    return SampleReader(read_index(folder), 1 << 20)


def ten(**answers: int) -> list[dict[str, object]]:
    """Return the answers of ten people as VQAv2 has them, from the number of people per answer."""
    words = [word for word, count in answers.items() for _ in range(count)]
    return [
        {"answer": word, "answer_confidence": "yes", "answer_id": number} for number, word in enumerate(words, start=1)
    ]


def annotation(question_id: int, majority: str, answers: list[dict[str, object]]) -> dict[str, object]:
    return {
        "question_type": "what is",
        "multiple_choice_answer": majority,
        "answers": answers,
        "image_id": question_id // 1000,
        "answer_type": "other",
        "question_id": question_id,
    }


def question(question_id: int, text: str) -> dict[str, object]:
    return {"image_id": question_id // 1000, "question": text, "question_id": question_id}


def write_vqav2(root: Path, questions: list[Any], annotations: list[Any] | None, subtype: str = "train2014") -> Path:
    """Write VQAv2's files and an image for each well-formed question; return the path of the questions."""
    head = {"info": {"version": "2.0"}, "license": {}, "data_type": "mscoco", "data_subtype": subtype}
    folder = subtype.replace("test-dev", "test")
    for number in {one["image_id"] for one in questions if isinstance(one, dict)}:
        draw_image(root / folder / f"COCO_{folder}_{number:012d}.jpg", number % 250)
    if annotations is not None:
        write_json(root / f"v2_mscoco_{subtype}_annotations.json", {**head, "annotations": annotations})
    path = root / f"v2_OpenEnded_mscoco_{subtype}_questions.json"
    return write_json(path, {**head, "task_type": "Open-Ended", "questions": questions})


def statement(identifier: str, label: str | None, directory: int | None = None) -> dict[str, object]:
    """Return a line of NLVR2's train.json, or of test1.json without its label."""
    line: dict[str, object] = {
        "sentence": "The left image contains twice the number of dogs as the right image.",
        "left_url": "https://example.com/left.jpg",
        "right_url": "https://example.com/right.jpg",
        "identifier": identifier,
        "query": "dogs36",
        "synset": "dog",
    }
    line |= {} if label is None else {"label": label}
    return line | ({} if directory is None else {"directory": directory})


def karpathy(number: int, split: str, captions: list[str]) -> dict[str, object]:
    """Return an image of dataset_coco.json."""
    return {
        "filepath": "val2014",
        "filename": f"COCO_val2014_{number:012d}.jpg",
        "imgid": number % 10,
        "cocoid": number,
        "split": split,
        "sentids": list(range(len(captions))),
        "sentences": [
            {"tokens": text.lower().split(), "raw": text, "imgid": number % 10, "sentid": place}
            for place, text in enumerate(captions)
        ],
    }


def nocaps(number: int) -> dict[str, object]:
    """Return an image of nocaps_val_4500_captions.json."""
    return {
        "id": number,
        "open_images_id": f"{number:016x}",
        "file_name": f"{number:016x}.jpg",
        "domain": "near-domain",
        "coco_url": f"https://s3.amazonaws.com/nocaps/val/{number:016x}.jpg",
        "width": 16,
        "height": 12,
        "license": 0,
    }
