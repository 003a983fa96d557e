"""Steps that no rank applies: not finite on one rank, or a spike. CPU, half a minute."""

import json
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.step_guard import MAX_SKIPPED_SHARE, MIN_RECENT, NUM_RECENT, StepGuard
from pretrain.survival.stop import EXIT_MANY_SKIPPED, EXIT_STOPPED
from tests.runs.test_faults import arguments_of, broken, wait_for
from tests.support.launch import ROOT, Ended, RankProcess, run_ranks
from tests.support.tiny_run import TinyData


def test_a_spike_is_measured_by_the_losses_before_it() -> None:
    guard = StepGuard(spike_deviations=4, max_consecutive_skips=3)
    losses = [2 + 0.1 * (-1) ** step for step in range(2 * NUM_RECENT)]
    for loss in losses[: MIN_RECENT - 1]:
        guard.remember(loss)
    assert not guard.is_spike(100)  # too few to know
    for loss in losses:
        guard.remember(loss)
    assert not guard.is_spike(2.39) and guard.is_spike(2.41)  # 2 +- 4 x 0.1
    assert not guard.is_spike(-100)
    again = StepGuard(4, 3, json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state() and again.is_spike(2.41)
    assert not StepGuard(0, 3, guard.state()).is_spike(100)


@pytest.mark.parametrize(("loss", "is_applied"), [(1.5, True), (float("inf"), False), (float("nan"), False)])
def test_what_is_not_finite_is_not_applied(loss: float, is_applied: bool) -> None:
    factor = StepGuard(0, 3).factor(torch.tensor(loss))
    assert factor == 1 if is_applied else factor.isnan()


@pytest.mark.parametrize(("skipped", "is_many"), [(0, False), (20, False), (21, True), (100, True)])
def test_more_than_a_fifth_of_the_steps_is_many(skipped: int, is_many: bool) -> None:
    guard = StepGuard(0, 1000)
    for _ in range(skipped):
        guard.count(True)
    assert guard.has_skipped_many(100) == is_many
    assert guard.summary(100).startswith(f", {skipped} of them skipped" if skipped else "")
    assert ("more than 20%" in guard.summary(100)) == is_many
    assert f"a fifth ({MAX_SKIPPED_SHARE:.0%})".replace("%", " %") in (ROOT / "docs" / "running.md").read_text()


def test_too_many_skips_in_a_row_end_the_run() -> None:
    guard = StepGuard(0, max_consecutive_skips=2)
    assert [guard.count(skipped) for skipped in (True, False, True)] == ["", "", ""]
    assert guard.num_skipped_steps == 2
    assert guard.count(True).startswith("2 steps in a row had no finite loss and gradient")


@pytest.mark.parametrize("stage", [3, 2, 1])
def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(
    stage: int, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    deepspeed_config = tmp_path / "ds.json"
    deepspeed_config.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    settings = [] if stage == 3 else ["--deepspeed-config", deepspeed_config]
    ended = broken(tiny_data, tmp_path, *settings, point="inside forward", rank=1, step=3, action="poison")
    assert ended.exit_codes == [0, 0], ended.stderr
    log = read_log(tmp_path)
    assert [record["step"] for record in log if record["skipped"]] == [3]
    assert log[3]["loss"] is None and log[3]["keys"] == read_log(two_ranks)[3]["keys"]
    assert [record["num_skipped_steps"] for record in log] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [r["loss"] for r in log[:3]] == pytest.approx([r["loss"] for r in read_log(two_ranks)[:3]], abs=1e-4)
    assert all(record["loss"] is not None for record in log[4:])


def test_losses_that_stay_so_end_all_ranks(tiny_data: TinyData, tmp_path: Path) -> None:
    few = ["--max-consecutive-skips", 3]
    ended = broken(tiny_data, tmp_path, *few, point="inside forward", rank=0, step=2, action="poison_on")
    assert ended.exit_codes == [2, 2], ended.stderr
    assert "error: 3 steps in a row had no finite loss and gradient" in ended.stderr[0]
    assert [record["skipped"] for record in read_log(tmp_path)] == [False, False, True, True, True]


def test_a_run_of_skipped_steps_ends_with_a_code_of_its_own_and_keeps_what_it_had_learned(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir, status = tmp_path / "run", tmp_path / "status"
    ended = broken(tiny_data, run_dir, point="inside forward", rank=0, step=1, action="poison_on")
    assert ended.exit_codes == [EXIT_MANY_SKIPPED] * 2, ended.stderr
    last = f'{run_dir} is complete: 8 steps, 7 of them skipped, more than 20%: see "skipped": true in {LOG_NAME}'
    assert ended.stdout[0].splitlines()[-1] == last
    kept = [path.name for path in sorted((run_dir / "checkpoints").iterdir())]
    assert kept == ["step_00000002", "step_00000008"]  # the weights of step 1, and where the run goes on
    assert f"saved step 2 of 8 in {run_dir / 'checkpoints' / kept[0]}" in ended.stdout[0].splitlines()
    told = {"IMGLISH_STATUS_FILE": str(status)}
    again = run_ranks(2, "pretrain.train", arguments_of(tiny_data, run_dir), environment=told)
    assert again.exit_codes == [0, 0] and status.read_text() == "8 many_skipped 8\n"
    assert again.stdout[0].splitlines()[-1] == last


def test_spikes_are_skipped_and_a_stop_does_not_change_which(tiny_data: TinyData, tmp_path: Path) -> None:
    whole, joined = tmp_path / "whole", tmp_path / "joined"

    def train(run_dir: Path, while_running: Any = None) -> Ended:
        # losses that do not fall, so that their noise has spikes
        settings = ["--optimizer.peak-lr", 1e-6, "--optimizer.min-lr", 1e-6, "--spike-deviations", 1]
        settings += ["--num-steps", 60, "--max-consecutive-skips", 70]
        arguments = ["demo", *tiny_data.overrides(run_dir), *settings]
        return run_ranks(2, "pretrain.train", arguments, while_running=while_running)

    def stop(processes: list[RankProcess]) -> None:
        wait_for(lambda: (joined / LOG_NAME).exists() and len(read_log(joined)) >= 36)
        processes[1].send_signal(signal.SIGTERM)

    for ended, code in ((train(whole), 0), (train(joined, stop), EXIT_STOPPED), (train(joined), 0)):
        assert ended.exit_codes == [code, code], ended.stderr
    applied: list[float] = []
    for record in read_log(whole):
        recent = applied[-NUM_RECENT:]
        is_spike = len(recent) >= MIN_RECENT and record["loss"] > statistics.fmean(recent) + statistics.pstdev(recent)
        assert record["skipped"] == is_spike
        if not is_spike:
            applied.append(record["loss"])
    assert read_log(whole)[-1]["num_skipped_steps"] == 60 - len(applied) >= 3
    assert [(r["loss"], r["skipped"]) for r in read_log(joined)] == [(r["loss"], r["skipped"]) for r in read_log(whole)]
