"""One process at a time writes a part of a folder; a killed process blocks nobody."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from data_pipeline import index_shards
from data_pipeline.files.folder_lock import LOCK_NAME, folder_lock
from data_pipeline.index_shards import IndexOptions
from data_pipeline.shards.index import read_index
from tests.support.launch import ROOT
from tests.support.tiny_run import TinyData

HOLDER = """
import sys
from pathlib import Path
from data_pipeline.files.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1]), int(sys.argv[2])) as lock, lock.plan():
    pass
with folder_lock(Path(sys.argv[1]), int(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path, part: int) -> Iterator["subprocess.Popen[str]"]:
    """Hold a part in another process until its standard input ends."""
    command = [sys.executable, "-c", HOLDER, str(path), str(part)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def locks(tmp_path: Path) -> Path:
    path = tmp_path / "out" / ".index" / "lock"
    path.parent.mkdir(parents=True)
    return path


def test_a_part_that_is_being_written_is_refused_with_its_writer(tmp_path: Path) -> None:
    path = locks(tmp_path)
    with held(path, 3) as holder, pytest.raises(ValueError) as caught, folder_lock(path, 3, wait_seconds=0):
        pass
    assert str(caught.value).startswith(f"{tmp_path}/out is being written by process {holder.pid} on ")
    assert f"delete {path}" in str(caught.value)


def test_the_second_waits_for_the_end_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = locks(tmp_path)
    with held(path, 0) as holder:
        assert holder.stdin is not None
        threading.Timer(0.5, holder.stdin.close).start()
        with folder_lock(path, 0, wait_seconds=60):
            pass
    assert f"is being written by process {holder.pid}" in capsys.readouterr().err


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    path = locks(tmp_path)
    with held(path, 0) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with folder_lock(path, 0, wait_seconds=0) as lock:
            assert lock.is_alone()


@pytest.mark.parametrize(("own", "other"), [(0, 1), (1, 0), (2, 7), (7, 2)])
def test_other_parts_are_written_at_the_same_time_and_are_known(own: int, other: int, tmp_path: Path) -> None:
    path = locks(tmp_path)
    with held(path, other), folder_lock(path, own, wait_seconds=0) as lock, lock.plan():
        assert not lock.is_alone()
        with pytest.raises(ValueError, match="is being written"), folder_lock(path, other, wait_seconds=0):
            pass


def test_two_indexings_of_one_folder_do_not_delete_each_others_records(
    tmp_path: Path, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(tiny_data.folder / "pairs", folder)
    monkeypatch.setattr(index_shards, "folder_lock", partial(folder_lock, wait_seconds=0))
    with held(folder / ".index" / LOCK_NAME, 0), pytest.raises(ValueError, match="is being written by process"):
        index_shards.index_shards(IndexOptions("pair", str(folder), num_workers=1))
    index_shards.index_shards(IndexOptions("pair", str(folder), num_workers=1))
    assert read_index(folder).num_samples == 40
