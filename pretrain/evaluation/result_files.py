"""Files of results in the forms that the servers of the data sets take.

| task     | form                                                                             |
| -------- | -------------------------------------------------------------------------------- |
| vqa      | JSON `[{"question_id": 7, "answer": "red"}, ...]` (visualqa.org)                  |
| caption  | JSON `[{"image_id": 9, "caption": "a cat"}, ...]` (COCO, NoCaps)                  |
| nlvr2    | CSV, a line `dev-0-1-0,True` per statement, without a header (lil-lab/nlvr)       |
| classify | JSON `[{"key": "val_00000001", "class": "n01440764"}, ...]`, our own               |
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.files.partial_files import write_text_atomically
from data_pipeline.samples.tasks import Identifier, Task

FIELDS: dict[Task, tuple[str, str]] = {
    "vqa": ("question_id", "answer"),
    "caption": ("image_id", "caption"),
    "classify": ("key", "class"),
}
"""Names of the identifier and of the result, for tasks with a JSON file."""
SUFFIXES: dict[Task, str] = {"vqa": ".json", "caption": ".json", "nlvr2": ".csv", "classify": ".json"}


def check_results_path(path: Path, task: Task) -> None:
    """Raise ValueError for a folder, and unless a file has the suffix of the task's form, and a folder to lie in."""
    if path.suffix != SUFFIXES[task]:
        raise ValueError(f"--results {path} must end in {SUFFIXES[task]}, the form of results of task {task}")
    if not path.parent.is_dir():
        raise ValueError(f"--results {path}: the folder {path.parent} does not exist; make it, or give another")
    if path.is_dir():
        raise ValueError(f"--results {path} is a folder; give a file")


def write_results(path: Path, task: Task, results: Sequence[tuple[Identifier, str]]) -> None:
    """Write the results of samples, of each its identifier and what the network says. Raises OSError.

    A statement of nlvr2 is True or False.
    """
    if task == "nlvr2":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(results)  # an identifier of your own may hold a comma
        write_text_atomically(path, lines.getvalue())
        return
    identifier_name, name = FIELDS[task]
    entries = [{identifier_name: identifier, name: result} for identifier, result in results]
    write_text_atomically(path, json.dumps(entries) + "\n")
