"""Steps that no rank applies: not finite on one rank, or a spike. CPU, two ranks."""

import json
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.step_guard import MIN_RECENT, NUM_RECENT
from pretrain.survival.stop import EXIT_MANY_SKIPPED, EXIT_STOPPED
from tests.support.faults import arguments_of, broken, few_now, wait_for
from tests.support.launch import Ended, RankProcess, run_ranks
from tests.support.tiny_run import TinyData


@pytest.mark.parametrize("stage", few_now([3], [2, 1]))
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


@pytest.mark.slow
def test_too_many_losses_in_a_row_that_are_not_finite_end_all_ranks(tiny_data: TinyData, tmp_path: Path) -> None:
    few = ["--max-consecutive-skips", 3]
    ended = broken(tiny_data, tmp_path, *few, point="inside forward", rank=0, step=2, action="poison_on")
    assert ended.exit_codes == [2, 2], ended.stderr
    assert "error: 3 steps in a row had no finite loss and gradient" in ended.stderr[0]
    assert [record["skipped"] for record in read_log(tmp_path)] == [False, False, True, True, True]


@pytest.mark.slow
def test_a_run_of_skipped_steps_ends_with_its_own_code_and_keeps_the_checkpoint_before_them(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir, status = tmp_path / "run", tmp_path / "status"
    ended = broken(tiny_data, run_dir, point="inside forward", rank=0, step=1, action="poison_on")
    assert ended.exit_codes == [EXIT_MANY_SKIPPED] * 2, ended.stderr
    last = f'{run_dir} is complete: 8 steps, 7 of them skipped, more than 20%: see "skipped": true in {LOG_NAME}'
    assert ended.stdout[0].splitlines()[-1] == last
    kept = [path.name for path in sorted((run_dir / "checkpoints").iterdir())]
    assert kept == ["step_00000002", "step_00000008"]  # the weights of step 1, and the newest checkpoint
    assert f"saved step 2 of 8 in {run_dir / 'checkpoints' / kept[0]}" in ended.stdout[0].splitlines()
    status_file = {"IMGLISH_STATUS_FILE": str(status)}
    again = run_ranks(2, "pretrain.train", arguments_of(tiny_data, run_dir), environment=status_file)
    assert again.exit_codes == [0, 0] and status.read_text() == "8 many_skipped 8\n"
    assert again.stdout[0].splitlines()[-1] == last


@pytest.mark.slow
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
