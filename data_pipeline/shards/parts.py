"""Which parts of a folder of shards are written, and with which settings: what the tasks of a job array share.

plan.txt             the settings that the shards depend on, NAME = VALUE per line: shards of two settings do not mix
.index/finished-I    part I is complete; holds the number of blocks of the source and their digest
"""

import re
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.files.folder_lock import FolderLock
from data_pipeline.files.partial_files import write_text_atomically
from data_pipeline.settings.changes import changes
from data_pipeline.shards.scan import SCANS_NAME

PLAN_NAME = "plan.txt"
FINISHED = "finished-"


def finished_part(out: Path, part: int) -> Path:
    """Return the path of the file that marks a part as complete."""
    return out / SCANS_NAME / f"{FINISHED}{part}"


def unfinished_parts(out: Path) -> list[int]:
    """Return the parts that write_shards has not finished in a folder; none if it did not write there.

    Raises ValueError for a damaged plan.
    """
    if not (out / PLAN_NAME).is_file():
        return []
    num_parts = re.search(r"^num_parts = (\d{1,6})$", (out / PLAN_NAME).read_text(errors="replace"), re.MULTILINE)
    if num_parts is None:
        raise ValueError(f"{out / PLAN_NAME} is not a plan of write_shards; move it away or restore it")
    return [part for part in range(int(num_parts[1])) if not finished_part(out, part).exists()]


def check_plan(out: Path, settings: Mapping[str, object], lock: FolderLock) -> None:
    """Write the plan of a folder, or compare the settings with the one that is there.

    Raises ValueError if shards were, or are being, written with different settings.
    """
    path = out / PLAN_NAME
    plan = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    if not path.is_file() and any(out.glob("*.tar")):
        raise ValueError(f"{out} holds shards of another origin; give a new folder")
    if not path.is_file():
        write_text_atomically(path, plan)
    differences = "; ".join(changes(_settings_in(path.read_text(errors="replace")), _settings_in(plan)))
    if not differences:
        return
    if any(out.glob("*.tar")):
        raise ValueError(f"{out} was started with different settings ({differences}); give those, or a new folder")
    if not lock.is_alone():
        raise ValueError(f"{out} is being written by another command with different settings ({differences})")
    for left in (out / SCANS_NAME).iterdir():  # no shard was written: scans of empty blocks alone are left
        if left.suffix == ".npz" or left.name.startswith(FINISHED):
            left.unlink()
    write_text_atomically(path, plan)


def _settings_in(plan: str) -> dict[str, str]:
    """Return the values of a plan's lines as a command line has them, without the names of Python's types."""
    entries = (line.partition(" = ") for line in plan.splitlines())
    return {name: re.sub(r"^(?:\w*Path\()?'(.*?)'\)?$", r"\1", value) for name, _, value in entries}
