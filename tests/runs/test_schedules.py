"""Runs that are prolonged, ended early or refused, against one that was planned so. CPU, one rank, half a minute."""

import json
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


@pytest.fixture(scope="module")
def endings(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the folder of three runs and how their starts ended."""
    folder = tmp_path_factory.mktemp("schedules")

    def start(name: str, schedule: str, num_steps: int, decay_steps: int = 0, moved_away: str = "") -> dict[str, Any]:
        words = ["--optimizer.schedule", schedule, "--optimizer.decay-steps", decay_steps, "--num-steps", num_steps]
        words += ["--keep-checkpoints", 1]
        return {"arguments": ["demo", *tiny_data.overrides(folder / name), *map(str, words)], "moved_away": moved_away}

    plan = [
        start("planned", "wsd", 10, 3),
        start("prolonged", "wsd", 5, 1),
        start("prolonged", "wsd", 8, 2),  # refused: the decay has begun
        start("prolonged", "wsd", 8, 2, "step_00000005"),
        start("prolonged", "wsd", 10, 3, "step_00000008"),
        start("ended", "constant", 3),
        start("ended", "constant", 4),  # a complete run goes on
        start("ended", "wsd", 6, 3),  # too late for it
        start("ended", "wsd", 7, 3),  # ended well from now on
        start("cosine", "cosine", 2),
        start("cosine", "cosine", 3),
    ]
    asked, out = folder / "plan.json", folder / "out.json"
    asked.write_text(json.dumps(plan))
    ended = run_ranks(1, "tests.support.successive_runs", [asked, out])
    assert ended.exit_codes == [0], ended.stderr
    return folder, json.loads(out.read_text())


def test_a_run_that_is_prolonged_twice_equals_one_that_was_planned_so_to_the_bit(
    endings: tuple[Path, list[str]],
) -> None:
    folder, said = endings
    assert (said[0], said[1], said[3], said[4]) == ("complete",) * 4
    prolonged = figures(folder / "prolonged")
    assert prolonged == figures(folder / "planned")
    assert len({record["lr"] for record in prolonged[2:7]}) == 1 and prolonged[-1]["lr"] == 5e-5
    assert steps_of(folder / "planned") == [7, 10]  # where the decay began, and the newest


def test_prolonging_inside_the_decay_names_the_checkpoint_to_go_back_to(endings: tuple[Path, list[str]]) -> None:
    folder, said = endings
    assert said[2] == (
        f"{folder / 'prolonged'} is at step 5, inside the decay that began at step 4, so its settings cannot change "
        "(num_steps was 5, is now 8; optimizer.decay_steps was 1, is now 2); to go on from step_00000004, which is "
        f"from before the decay, move the checkpoints after it out of {folder / 'prolonged' / 'checkpoints'}"
    )


def test_a_complete_run_goes_on_and_is_ended_by_a_decay_that_begins_now(endings: tuple[Path, list[str]]) -> None:
    folder, said = endings
    assert (said[5], said[6], said[8]) == ("complete",) * 3
    assert said[7] == (
        "num_steps 6 is too low: 4 steps are done, and a decay of 3 steps can begin now at the earliest; give "
        "num_steps 7 or more, or fewer decay_steps"
    )
    rates = [record["lr"] for record in read_log(folder / "ended")]
    assert len(rates) == 7 and rates[1:4] == [1e-3] * 3 and rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[4] < 1e-3 and rates[-1] == 5e-5
    assert figures(folder / "ended")[:4] == figures(folder / "planned")[:4]


def test_a_run_under_cosine_is_not_prolonged(endings: tuple[Path, list[str]]) -> None:
    folder, said = endings
    reason = "under the schedule cosine the learning rate of steps already done depends on it"
    assert said[9] == "complete" and f"(num_steps was 2, is now 3: {reason})" in said[10]
    assert said[10].startswith(f"{folder / 'cosine'} was started with different settings (")
