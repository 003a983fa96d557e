"""Runs that are prolonged, ended early or refused, against one that was planned so. CPU, one rank, half a minute."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoints.reader import complete_folders
from pretrain.run.run_log import read_log
from tests.support.launch import run_ranks
from tests.support.tiny_run import TinyData

FIGURES = ("step", "loss", "losses", "grad_norm", "lr", "keys")


def figures(run_dir: Path) -> list[dict[str, Any]]:
    return [{name: record[name] for name in FIGURES} for record in read_log(run_dir)]


def steps_of(run_dir: Path) -> list[int]:
    return [int(folder.name.removeprefix("step_")) for folder in complete_folders(run_dir / "checkpoints")]


@dataclass(frozen=True)
class Start:
    """A start of one of the runs."""

    name: str
    schedule: str
    num_steps: int
    decay_steps: int = 0
    moved_away: str = ""
    """The checkpoint that is moved away before it."""


def endings(starts: list[Start], data: TinyData, folder: Path) -> list[str]:
    """Return how the starts ended, one after the other in one process."""

    def asked(start: Start) -> dict[str, Any]:
        words = ["--optimizer.schedule", start.schedule, "--optimizer.decay-steps", start.decay_steps]
        words += ["--num-steps", start.num_steps, "--keep-checkpoints", 1]
        arguments = ["demo", *data.overrides(folder / start.name), *map(str, words)]
        return {"arguments": arguments, "moved_away": start.moved_away}

    plan, out = folder / "plan.json", folder / "out.json"
    plan.write_text(json.dumps([asked(start) for start in starts]))
    ended = run_ranks(1, "tests.support.successive_runs", [plan, out])
    assert ended.exit_codes == [0], ended.stderr
    found: list[str] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def prolonged(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the folder of a run that was planned and of one that was prolonged, and how their starts ended."""
    folder = tmp_path_factory.mktemp("prolonged")
    starts = [
        Start("planned", "wsd", 10, 3),
        Start("prolonged", "wsd", 5, 1),
        Start("prolonged", "wsd", 8, 2),  # refused: the decay has begun
        Start("prolonged", "wsd", 8, 2, "step_00000005"),
        Start("prolonged", "wsd", 10, 3, "step_00000008"),
    ]
    return folder, endings(starts, tiny_data, folder)


def test_a_run_that_is_prolonged_twice_equals_one_that_was_planned_so_to_the_bit(
    prolonged: tuple[Path, list[str]],
) -> None:
    folder, said = prolonged
    assert (said[0], said[1], said[3], said[4]) == ("complete",) * 4
    records = figures(folder / "prolonged")
    assert records == figures(folder / "planned")
    assert len({record["lr"] for record in records[2:7]}) == 1 and records[-1]["lr"] == 5e-5
    assert steps_of(folder / "planned") == [7, 10]  # where the decay began, and the newest


def test_prolonging_inside_the_decay_names_the_checkpoint_to_go_back_to(prolonged: tuple[Path, list[str]]) -> None:
    folder, said = prolonged
    assert said[2] == (
        f"{folder / 'prolonged'} is at step 5, inside the decay that began at step 4, so its settings cannot change "
        "(num_steps was 5, is now 8; optimizer.decay_steps was 1, is now 2); to go on from step_00000004, which is "
        f"from before the decay, move the checkpoints after it out of {folder / 'prolonged' / 'checkpoints'}"
    )


@pytest.mark.slow
def test_a_complete_run_goes_on_and_is_ended_by_a_decay_that_begins_now(
    prolonged: tuple[Path, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    starts = [
        Start("ended", "constant", 3),
        Start("ended", "constant", 4),  # a complete run goes on
        Start("ended", "wsd", 6, 3),  # too late for it
        Start("ended", "wsd", 7, 3),  # ended well from now on
    ]
    said = endings(starts, tiny_data, tmp_path)
    assert (said[0], said[1], said[3]) == ("complete",) * 3
    assert said[2] == (
        "num_steps 6 is too low: 4 steps are done, and a decay of 3 steps can begin now at the earliest; give "
        "num_steps 7 or more, or fewer decay_steps"
    )
    rates = [record["lr"] for record in read_log(tmp_path / "ended")]
    assert len(rates) == 7 and rates[1:4] == [1e-3] * 3 and rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[4] < 1e-3 and rates[-1] == 5e-5
    assert figures(tmp_path / "ended")[:4] == figures(prolonged[0] / "planned")[:4]


@pytest.mark.slow
def test_a_run_under_cosine_is_not_prolonged(tiny_data: TinyData, tmp_path: Path) -> None:
    said = endings([Start("cosine", "cosine", 2), Start("cosine", "cosine", 3)], tiny_data, tmp_path)
    reason = "under the schedule cosine the learning rate of steps already done depends on it"
    assert said[0] == "complete" and f"(num_steps was 2, is now 3: {reason})" in said[1]
    assert said[1].startswith(f"{tmp_path / 'cosine'} was started with different settings (")
