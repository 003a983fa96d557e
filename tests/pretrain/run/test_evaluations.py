"""When a run is evaluated, and where the figures go. CPU, in this process, seconds."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pretrain.checkpoints.best import read_best
from pretrain.checkpoints.manifest import MANIFEST_NAME
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.evaluation import Evaluation, Figures, Network
from pretrain.evaluation.records import append_evaluation, evaluation_line, read_evaluations
from pretrain.recipes.small import demo
from pretrain.run.evaluations import Evaluations, last_due_step
from pretrain.survival import agreement
from pretrain.survival.agreement import FatalRunError
from tests.support.mistakes import only_rank

NUM_STEPS = 25


class Counting(Evaluation):
    """An evaluation of six samples whose loss falls by one with each call."""

    names = ("loss/total",)
    num_calls = 0

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        ranks.by_place(6, 2, lambda places: torch.zeros(len(places), 1), torch.device("cpu"))
        self.num_calls += 1
        return {"loss/total": 5.0 - self.num_calls, "probe/acc": math.nan}


class Monitor:
    """Figures by step, as `Monitors.write` receives them."""

    def __init__(self) -> None:
        self.written: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self.written.append((step, dict(figures)))


class Stop:
    """A request to stop that a test makes."""

    signalled = False
    is_asked_by_file = False


class Phases:
    """Phases that a watchdog was given."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def at(self, phase: str, step: int | None = None) -> None:
        self.phases.append(phase)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with only_rank():
        monkeypatch.setattr(agreement, "_hosts", dist.group.WORLD)
        yield


def evaluations(run_dir: Path, first_step: int, ema_decay: float = 0.0, **settings: Any) -> Evaluations:
    given = replace(demo().evaluation, every_steps=10, **settings)
    config = replace(demo(), run_dir=run_dir, num_steps=NUM_STEPS, save_every_steps=10, evaluation=given)
    config = replace(config, optimizer=replace(config.optimizer, ema_decay=ema_decay))
    monitor = Monitor()
    return Evaluations(Counting(), config, first_step, Stop(), Phases(), monitor.write)  # type: ignore[arg-type]


ENGINE: Any = None
"""`Counting` does not use it."""


def steps_of(run_dir: Path) -> list[int]:
    return [line["step"] for line in read_evaluations(run_dir)]


def test_an_evaluation_of_the_average_that_a_stop_left_out_is_made_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.run.evaluations.averaged_weights", lambda engine: nullcontext())
    append_evaluation(tmp_path, evaluation_line(10, "raw", {"loss/total": 4.0}, 1.0))
    run = evaluations(tmp_path, 10, ema_decay=0.99)
    run.begin(ENGINE)
    run.after_step(ENGINE, 20)
    found = [(line["step"], line["weights"]) for line in read_evaluations(tmp_path)]
    assert found == [(10, "raw"), (10, "ema"), (20, "raw"), (20, "ema")]
    assert "rerun the same command" in run.left_out(NUM_STEPS)
    run.after_step(ENGINE, NUM_STEPS)
    assert run.left_out(NUM_STEPS) == ""


def test_a_run_is_evaluated_before_its_first_step_at_each_distance_and_after_its_last(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = evaluations(tmp_path, 0)
    monitor = run.write_figures.__self__  # type: ignore[union-attr]
    run.begin(ENGINE)
    for step in range(1, NUM_STEPS + 1):
        run.after_step(ENGINE, step)
    assert steps_of(tmp_path) == [0, 10, 20, 25]
    assert read_evaluations(tmp_path)[1]["figures"] == {"loss/total": 3.0, "probe/acc": None}
    assert [step for step, _ in monitor.written] == [0, 10, 20, 25]
    assert monitor.written[0][1]["evaluation/loss/total"] == 4.0
    said = re.sub(r"\d+\.\d s", "0.0 s", capfd.readouterr().out)
    assert "evaluated after step 10 of 25 (0.0 s): loss/total 3.000" in said
    assert run.watchdog.phases == ["evaluating"] * 4 * (1 + 3)  # type: ignore[attr-defined]  # three chunks each
    assert run.of_step(20) == [read_evaluations(tmp_path)[2]] and run.of_step(21) == []


@pytest.mark.parametrize(
    ("first_step", "made", "expected"),
    [(10, [0, 10], [0, 10]), (13, [0], [0, 13]), (10, [0], [0, 10]), (25, [0, 10, 20], [0, 10, 20, 25]),
     (25, [25], [25]), (13, [0, 10, 20], [0, 10])],
)  # fmt: skip
def test_a_resumed_run_makes_what_is_missing_and_repeats_nothing(
    first_step: int, made: list[int], expected: list[int], tmp_path: Path
) -> None:
    before = evaluations(tmp_path, 0)
    for step in made:
        before._evaluate(ENGINE, step, ["raw"])
    evaluations(tmp_path, first_step).begin(ENGINE)
    assert steps_of(tmp_path) == expected


def test_outputs_that_are_not_finite_end_the_run_and_leave_no_line(tmp_path: Path) -> None:
    class Diverged(Counting):
        def figures(self, network: Network, ranks: Ranks) -> Figures:
            ranks.by_place(6, 2, lambda places: torch.full((len(places), 1), torch.nan), torch.device("cpu"))
            return {}

    run = evaluations(tmp_path, 0)
    run.evaluation = Diverged()
    with pytest.raises(FatalRunError, match=r"after step 10 failed: .*\(sample 0, .*every-steps 0"):
        run.after_step(ENGINE, 10)
    assert steps_of(tmp_path) == []


def test_a_request_to_stop_leaves_no_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = evaluations(tmp_path, 0)
    run.stop.signalled = True
    run.begin(ENGINE)
    assert steps_of(tmp_path) == []
    assert "the evaluation after step 0 is interrupted by a request to stop" in capfd.readouterr().out


def test_the_checkpoint_that_a_run_resumes_from_can_be_the_best(tmp_path: Path) -> None:
    """The start before may have been killed between the checkpoint and the file that names it."""
    folder = tmp_path / "checkpoints"
    for step in (10, 20):
        (folder / f"step_{step:08d}").mkdir(parents=True)
        (folder / f"step_{step:08d}" / MANIFEST_NAME).write_text("{}")
    first = evaluations(tmp_path, 0, best="loss/total")
    first._evaluate(ENGINE, 10, ["raw"])
    assert read_best(folder) is None  # CheckpointSaver names it, once it is complete
    evaluations(tmp_path, 10, best="loss/total")
    best = read_best(folder)
    assert best is not None and (best.step, best.value) == (10, 4.0)
    evaluations(tmp_path, 20, best="loss/total").begin(ENGINE)  # missing: made now, no better
    assert steps_of(tmp_path) == [10, 20] and read_best(folder) == best
    evaluations(tmp_path, 0, best="loss/total")  # starts again before it
    assert read_best(folder) is None


def test_a_run_without_an_evaluation_has_none(tmp_path: Path) -> None:
    run = evaluations(tmp_path, 0)
    run.evaluation = None
    run.begin(ENGINE)
    run.after_step(ENGINE, 10)
    assert steps_of(tmp_path) == [] and not run.is_due(10)


def test_due_steps() -> None:
    assert [last_due_step(step, 25, 10) for step in (0, 9, 10, 24, 25)] == [0, 0, 10, 20, 25]
