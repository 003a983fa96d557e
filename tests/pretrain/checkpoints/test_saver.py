"""Checkpoints that are kept, and the check of the newest at the end of a run. CPU, seconds."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoints.saver import check_there, outdated
from pretrain.recipes.small import demo
from pretrain.survival.json_lines import append_whole


def test_checkpoints_of_every_nth_step_are_kept() -> None:
    updates: dict[int, int | None] = {step: step for step in range(100, 1001, 100)}
    assert kept_of(updates, keep_checkpoints=2, keep_every_steps=400) == [400, 800, 900, 1000]


def kept_of(num_updates: dict[int, int | None], **settings: Any) -> list[int]:
    """Return the steps of the checkpoints that are kept; num_updates: number of applied steps by step."""
    folders = {Path(f"step_{step:08d}"): updates for step, updates in num_updates.items()}
    gone = outdated(folders, replace(demo(), **settings))
    return [int(folder.name.removeprefix("step_")) for folder in folders if folder not in gone]


@pytest.mark.parametrize(
    ("num_updates", "kept"),
    [
        ({1: 1, 2: 2, 3: 3}, [2, 3]),
        ({1: 1, 2: 2, 3: 2, 4: 2, 5: 2}, [1, 2, 5]),  # among equal weights, the first and the newest
        ({1: 1, 2: 2, 3: 2, 4: 3}, [2, 4]),
        ({1: 0, 2: 0, 3: 0}, [3]),  # no step was applied yet
        ({1: 1, 2: None, 3: 2, 4: 3}, [2, 3, 4]),  # the manifest of step 2 is damaged
    ],
)
def test_checkpoints_after_skipped_steps_do_not_displace_those_of_progress(
    num_updates: dict[int, int | None], kept: list[int]
) -> None:
    assert kept_of(num_updates, keep_checkpoints=2) == kept


def test_the_size_of_each_file_of_the_newest_checkpoint_is_compared_at_the_end(two_ranks: Path, tmp_path: Path) -> None:
    newest = tmp_path / "step_00000008"
    shutil.copytree(two_ranks / "checkpoints" / newest.name, newest)
    check_there(newest)
    with next(newest.glob("*optim_states.pt")).open("ab", buffering=0) as file:
        append_whole(file, b"x")  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"optim_states\.pt was damaged after it was saved; put the run folder back as"):
        check_there(newest)
    newest.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="step_00000008 was moved, deleted or damaged after it was saved"):
        check_there(newest)
