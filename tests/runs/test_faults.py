"""The fault table: faults on purpose, how the other rank ends, and an exact resume by the next start.

Two CPU ranks, eight steps, a checkpoint every two steps; a few seconds per fault. Three of them run with make test (a
rank is killed while it saves, or hangs; a checkpoint is damaged), all others with make test-slow.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from pretrain.checkpoints.reader import latest_checkpoint
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.demo import ranks_of
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.stop import EXIT_RANK_LOST, EXIT_STOPPED, EXIT_STOPPED_BY_FILE
from tests.support.faults import (
    SILENT_SECONDS,
    arguments_of,
    broken,
    check_it_goes_on,
    few_now,
    lines,
    newest_step,
    wait_for,
)
from tests.support.launch import ON_CPU, ROOT, Ended, RankProcess, python_path, run_ranks
from tests.support.ports import reserved_port
from tests.support.tiny_run import TinyData

HANG_SECONDS = 12.0
KILLED = -signal.SIGKILL


KILLS = [("inside file", 1, 3)]
MORE_KILLS = [
    ("loading", 0, -1),
    ("inside backward", 1, 5),
    ("collective", 0, 5),
    ("preparation", 1, -1),
    ("reading", 1, 3),
    ("inside forward", 0, 5),
    ("inside forward", 1, 5),
    ("optimizer", 1, 5),
    ("collective", 1, 5),
    ("after snapshot", 1, 3),
    ("before file", 0, 3),
    ("before manifest", 0, 3),
    ("inside manifest", 0, 3),
    ("after manifest", 0, 3),
    ("after rename", 0, 3),
    ("end", 1, -1),
]


@pytest.mark.parametrize(("point", "rank", "step"), few_now(KILLS, MORE_KILLS))
def test_a_rank_is_killed(
    point: str, rank: int, step: int, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    if point == "loading":  # there must be a checkpoint to load
        stopped = broken(tiny_data, run_dir, point="forward", rank=0, step=2, action="terminate")
        assert stopped.exit_codes == [EXIT_STOPPED] * 2, stopped.stderr
    ended = broken(tiny_data, run_dir, point=point, rank=rank, step=step, action="kill")
    assert ended.exit_codes[rank] == KILLED, ended.stderr
    assert ended.exit_codes[1 - rank] == EXIT_RANK_LOST, ended.stderr
    said = ended.stderr[1 - rank]
    assert f"error: rank {rank}" in said
    if rank == 1:  # the place of the main rank is sent only now and then
        place = PLACES.get(point, point)
        # files are written during the next step
        assert re.search(rf"died in {place}" if step < 0 else rf"died in \w+ of step ({step}|{step + 1})\b", said)
        assert f"died in {place}" in said or point == "inside file"  # files are written in the background
    check_it_goes_on(tiny_data, run_dir, two_ranks)


PLACES = {
    "inside forward": "forward",
    "inside backward": "backward",
    "after snapshot": "saving",
    "inside file": "saving",
    "collective": "agreement",
}


@pytest.mark.parametrize("point", few_now([], ["inside manifest", "inside forward", "inside file", "after manifest"]))
def test_all_ranks_are_killed(point: str, two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    """Kill the main rank, which alone writes manifests, by the fault, and the other as soon as it has died."""

    def kill_the_other(processes: list[RankProcess]) -> None:
        wait_for(lambda: processes[0].poll() is not None)
        processes[1].send_signal(signal.SIGKILL)

    fault: dict[str, Any] = {"point": point, "rank": 0, "step": 3, "action": "kill"}
    ended = broken(tiny_data, tmp_path / "run", while_running=kill_the_other, **fault)
    assert ended.exit_codes[0] == KILLED and ended.exit_codes[1] in (KILLED, EXIT_RANK_LOST)
    check_it_goes_on(tiny_data, tmp_path / "run", two_ranks)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_of_saves(tiny_data: TinyData, tmp_path: Path) -> None:
    """One run that saves after every step, killed again and again, now one rank and now the other."""
    run_dir, whole, num_kills = tmp_path / "run", tmp_path / "whole", 0
    longer = ["--num-steps", 200, "--save-every-steps", 1]
    undisturbed = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, whole), *longer])
    assert undisturbed.exit_codes == [0, 0], undisturbed.stderr
    for seed in range(20):
        done = newest_step(run_dir)
        fault: dict[str, Any] = {
            "point": "saving",
            "rank": seed % 2,
            "step": done + 1,
            "action": "kill_soon",
            "seed": seed,
        }
        ended = broken(tiny_data, run_dir, *longer, **fault)
        num_kills += ended.exit_codes[seed % 2] == KILLED
        assert newest_step(run_dir) >= done
    assert num_kills == 20 and newest_step(run_dir) > 0
    ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, run_dir), *longer])
    assert ended.exit_codes == [0, 0], ended.stderr
    assert lines(run_dir) == lines(whole)


def test_a_rank_that_hangs_is_named(tiny_data: TinyData, tmp_path: Path) -> None:
    hang = ["--hang-seconds", HANG_SECONDS]
    ended = broken(tiny_data, tmp_path / "run", *hang, point="inside forward", rank=1, step=3, action="hang")
    assert ended.exit_codes == [EXIT_RANK_LOST] * 2, ended.stderr
    said = ended.stderr[0]
    assert f"error: nothing moved for {HANG_SECONDS:.0f} s: rank " in said
    assert "rank 1 in forward of step 3, faulty_ranks.py:" in said and "hang" in said
    assert "rank 0 in forward of step 3, " in said  # the next start goes on as after a rank that is frozen, below


@pytest.mark.slow
def test_a_rank_that_is_frozen_is_named(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    def end_the_frozen_one(processes: list[RankProcess]) -> None:
        wait_for(lambda: processes[0].poll() is not None)
        processes[1].send_signal(signal.SIGKILL)

    ended = broken(
        tiny_data,
        tmp_path / "run",
        point="backward",
        rank=1,
        step=3,
        action="freeze",
        while_running=end_the_frozen_one,
    )
    assert ended.exit_codes == [EXIT_RANK_LOST, KILLED]
    assert "rank 1 on " in ended.stderr[0] and "last in backward of step 3" in ended.stderr[0]
    check_it_goes_on(tiny_data, tmp_path / "run", two_ranks)


@pytest.mark.slow
def test_a_job_that_is_suspended_for_long_continues(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    def suspend(processes: list[RankProcess]) -> None:
        wait_for(lambda: (tmp_path / LOG_NAME).exists() and len(read_log(tmp_path)) >= 2)
        assert all(process.poll() is None for process in processes)
        for number, seconds in ((signal.SIGSTOP, 1.5 * SILENT_SECONDS), (signal.SIGCONT, 0)):
            for process in processes:
                process.send_signal(number)
            time.sleep(seconds)

    ended = run_ranks(2, "pretrain.train", arguments_of(tiny_data, tmp_path), while_running=suspend)
    assert ended.exit_codes == [0, 0], ended.stderr
    assert lines(tmp_path) == lines(two_ranks)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_a_rank_that_fails_alone_ends_all_with_its_traceback(
    rank: int, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    ended = broken(tiny_data, tmp_path / "run", point="inside forward", rank=rank, step=3, action="fail")
    assert ended.exit_codes == [EXIT_RANK_LOST] * 2, ended.stderr
    assert "failed in forward of step 3 (MemoryError: no memory is left; python -m pretrain.plan" in ended.stderr[0]
    assert 'raise MemoryError("no memory is left")' in ended.stderr[rank]
    assert "Traceback" not in ended.stderr[1 - rank]
    check_it_goes_on(tiny_data, tmp_path / "run", two_ranks)


@pytest.mark.slow
def test_a_rank_that_fails_while_the_engine_is_built_ends_all(tiny_data: TinyData, tmp_path: Path) -> None:
    ended = broken(tiny_data, tmp_path / "run", point="building", rank=1, step=-1, action="fail")
    assert ended.exit_codes == [EXIT_RANK_LOST] * 2, ended.stderr
    assert "rank 1 on " in ended.stderr[0]
    assert "failed in building (MemoryError: no memory is left; python -m pretrain.plan" in ended.stderr[0]
    assert 'raise MemoryError("no memory is left")' in ended.stderr[1]


@pytest.mark.slow
def test_a_rank_ends_although_nothing_can_be_printed(tiny_data: TinyData, tmp_path: Path) -> None:
    fault: dict[str, Any] = {"point": "inside forward", "rank": 1, "step": 3, "action": "kill"}
    ended = broken(tiny_data, tmp_path / "run", output="/dev/full", **fault)
    assert ended.exit_codes == [EXIT_RANK_LOST, KILLED]


@pytest.mark.slow
def test_a_rank_that_leaves_is_missed(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    ended = broken(tiny_data, tmp_path / "run", point="reading", rank=1, step=3, action="leave")
    assert ended.exit_codes == [EXIT_RANK_LOST, 3], ended.stderr
    assert "died in reading of step 3" in ended.stderr[0]
    check_it_goes_on(tiny_data, tmp_path / "run", two_ranks)


PHASES = ["preparation", "building", "reading", "agreement", "inputs", "forward", "backward", "optimizer", "saving"]


@pytest.mark.parametrize("phase", few_now([], PHASES))
def test_a_preemption_signal_in_every_phase(phase: str, two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    number = PHASES.index(phase)
    action, rank = ("terminate", "preempt")[number % 2], number // 2 % 2
    step = -1 if phase in ("preparation", "building") else 3
    ended = broken(tiny_data, tmp_path / "run", point=phase, rank=rank, step=step, action=action)
    assert ended.exit_codes == [EXIT_STOPPED] * 2, ended.stderr
    assert "saved; rerun the same command to resume" in ended.stdout[0]
    assert newest_step(tmp_path / "run") == len(read_log(tmp_path / "run"))
    check_it_goes_on(tiny_data, tmp_path / "run", two_ranks)


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_loaded_and_one_at_the_end(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    first = broken(tiny_data, run_dir, point="saving", rank=0, step=2, action="preempt")
    second = broken(tiny_data, run_dir, point="loading", rank=1, step=-1, action="terminate")
    assert first.exit_codes == second.exit_codes == [EXIT_STOPPED] * 2, second.stderr
    assert newest_step(run_dir) == newest_step_said(first) + 1
    last = broken(tiny_data, run_dir, point="end", rank=1, step=-1, action="terminate")
    assert last.exit_codes == [0, 0], last.stderr
    assert lines(run_dir) == lines(two_ranks)


def newest_step_said(ended: Ended) -> int:
    (line,) = (line for line in ended.stdout[0].splitlines() if line.startswith("stopped on request after step "))
    return int(line.removeprefix("stopped on request after step ").partition(",")[0])


@pytest.mark.slow
def test_a_stop_file_ends_the_run_with_its_own_code(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    run_dir, status = tmp_path / "run", tmp_path / "status"
    run_dir.mkdir()
    (run_dir / "stop").touch()
    ended = run_ranks(2, "pretrain.train", arguments_of(tiny_data, run_dir))
    assert ended.exit_codes == [EXIT_STOPPED_BY_FILE] * 2, ended.stderr
    assert newest_step(run_dir) == 1 and not (run_dir / "stop").exists()
    (run_dir / "stop").touch()
    status_file = {"IMGLISH_STATUS_FILE": str(status)}
    ended = run_ranks(2, "pretrain.train", arguments_of(tiny_data, run_dir), environment=status_file)
    assert ended.exit_codes == [0, 0] and status.read_text() == "2 stopped_by_file 1\n"
    check_it_goes_on(tiny_data, run_dir, two_ranks)


@pytest.mark.parametrize("who", few_now([], ["launcher of the node", "runner"]))
def test_the_launcher_is_killed(who: str, tiny_data: TinyData, tmp_path: Path) -> None:
    """Kill the runner, which is the command `deepspeed`, or the launcher that it starts on each node. The ranks outlive
    the runner, and save and end without their launcher; the next start waits for that."""
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    longer = ["--num-steps", 60, "--save-every-steps", 100]
    undisturbed = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, whole), *longer])
    assert undisturbed.exit_codes == [0, 0], undisturbed.stderr
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "critical", "--num_accelerators", "2"]
    environment = {**os.environ, **ON_CPU, "PYTHONPATH": python_path()}
    with (tmp_path / "output").open("w") as output, reserved_port() as port:
        command += ["--master_port", str(port), "--module", "pretrain.train"]
        command += [*map(str, [*arguments_of(tiny_data, run_dir), *longer])]
        runner = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        wait_for(lambda: (run_dir / LOG_NAME).exists() and len(read_log(run_dir)) >= 2)
    ranks = [psutil.Process(rank) for rank in ranks_of(runner.pid)]
    assert len(ranks) == 2
    launcher = ranks[0].parent()
    assert launcher is not None and launcher.pid != runner.pid
    if who == "runner":
        runner.kill()
        assert all(rank.is_running() for rank in ranks)
    launcher.kill()
    ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, run_dir), *longer])
    runner.wait()
    assert ended.exit_codes == [0, 0], ended.stderr
    assert "continues at step" in ended.stdout[0]
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert lines(run_dir) == lines(whole)


@pytest.mark.slow
def test_a_second_job_in_a_run_waits_and_is_refused(tiny_data: TinyData, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    refused: list[Ended] = []

    def start_another(processes: list[RankProcess]) -> None:
        wait_for(lambda: (run_dir / LOG_NAME).exists())
        refused.append(run_ranks(2, "pretrain.train", arguments_of(tiny_data, run_dir)))
        processes[0].send_signal(signal.SIGTERM)

    endless = [*arguments_of(tiny_data, run_dir), "--num-steps", 100_000]
    ended = run_ranks(2, "pretrain.train", endless, while_running=start_another)
    assert refused[0].exit_codes == [EXIT_RANK_LOST] * 2
    assert f"{run_dir} is in use by process " in refused[0].stderr[0]
    assert ended.exit_codes == [EXIT_STOPPED] * 2, ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a mounted file system without room for three checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_checkpoint_is_saved(two_ranks: Path, tiny_data: TinyData, small_disk: Path) -> None:
    run_dir = small_disk / "run"
    ended = run_ranks(2, "pretrain.train", arguments_of(tiny_data, run_dir))
    assert ended.exit_codes == [2, 2], ended.stderr
    assert "cannot be written (No space left on device); free space and start again" in ended.stderr[0]
    assert newest_step(run_dir) > 0
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    check_it_goes_on(tiny_data, run_dir, two_ranks)


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_step_is_logged(tiny_data: TinyData, small_disk: Path) -> None:
    run_dir, filler = small_disk / "run", small_disk / "filler"

    def fill(_: list[RankProcess]) -> None:
        wait_for(lambda: (run_dir / LOG_NAME).exists() and len(read_log(run_dir)) >= 1)
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    seldom = [*arguments_of(tiny_data, run_dir), "--save-every-steps", 40, "--num-steps", 40]
    ended = run_ranks(2, "pretrain.train", seldom, while_running=fill)
    assert ended.exit_codes == [2, 2], ended.stderr
    assert f"{LOG_NAME} cannot be written (No space left on device)" in ended.stderr[0]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    ended = run_ranks(2, "pretrain.train", seldom)
    assert ended.exit_codes == [0, 0], ended.stderr
    whole = run_ranks(2, "pretrain.train", [*seldom, "--run-dir", small_disk / "whole"])
    assert whole.exit_codes == [0, 0] and lines(run_dir) == lines(small_disk / "whole")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = ["*rank_1*optim_states.pt", "*model_states.pt", "manifest.json", "config.json"]
DAMAGES: list[Callable[[Path], object]] = [change_a_bit, truncate, Path.unlink]


def damaged(run_dir: Path, name: str, damage: Callable[[Path], object]) -> str:
    """Damage a file of the newest checkpoint; return the warning that follows, or ""."""
    victim = next((run_dir / "checkpoints" / "step_00000004").glob(name))
    damage(victim)
    if (name, damage) == ("manifest.json", Path.unlink):  # without a manifest it was never complete
        return ""
    return f"warning: checkpoint file {victim} is damaged; the checkpoint before it is used"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_found(
    name: str, damage: Callable[[Path], object], saved_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    warning = damaged(saved_run, name, damage)
    found = latest_checkpoint(saved_run, PretrainConfig)
    assert found is not None and found.step == 2
    assert warning in capfd.readouterr().err


@pytest.mark.parametrize(("name", "damage"), few_now([(FILES[0], change_a_bit)], list(product(FILES, DAMAGES))[1:]))
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    name: str, damage: Callable[[Path], object], saved_run: Path, two_ranks: Path, tiny_data: TinyData
) -> None:
    warning = damaged(saved_run, name, damage)
    ended = run_ranks(2, "pretrain.train", arguments_of(tiny_data, saved_run))
    assert ended.exit_codes == [0, 0], ended.stderr
    assert "continues at step 2" in ended.stdout[0] and warning in ended.stderr[0]
    assert lines(saved_run) == lines(two_ranks)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(saved_run: Path) -> None:
    damaged(saved_run, "manifest.json", change_a_bit)
    change_a_bit(saved_run / "checkpoints" / "step_00000002" / "config.json")
    with pytest.raises(ValueError, match=f"every checkpoint of {saved_run} is damaged; give a new run_dir"):
        latest_checkpoint(saved_run, PretrainConfig)


def test_a_checkpoint_saved_after_damaged_ones_is_kept(saved_run: Path, tiny_data: TinyData) -> None:
    damaged(saved_run, FILES[0], change_a_bit)
    (saved_run / "stop").touch()  # it resumes at step 2 and stops after step 3, below the damaged one
    ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, saved_run), "--keep-checkpoints", 1])
    assert ended.exit_codes == [EXIT_STOPPED_BY_FILE] * 2, ended.stderr
    assert find_checkpoint(saved_run).step == 3
