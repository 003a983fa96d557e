"""What libraries print at the start goes to a file, what we print and why a start fails to the terminal. CPU, 2 s."""

import signal
from pathlib import Path

import pytest

from pretrain.survival.startup_log import STARTUP_LOG_NAME
from tests.support.launch import Ended, run_ranks

LIBRARIES = [
    *("a library in Python", "a warning in Python", "a library in C", "a compiler", "its warning"),
]


def start(run_dir: Path, ending: str, fresh: bool = False) -> Ended:
    return run_ranks(1, "tests.support.startup_ranks", [run_dir, ending], fresh=fresh)


def said(run_dir: Path) -> str:
    return f"starting {run_dir}; what libraries print meanwhile is in {run_dir / STARTUP_LOG_NAME}\nours\n"


def test_the_start_is_ours_alone_and_what_is_printed_later_is_shown(tmp_path: Path) -> None:
    for num_starts in (1, 2):
        ended = start(tmp_path, "goes on")
        assert ended.exit_codes == [0]
        shown = ended.stdout[0].splitlines()
        assert sorted(shown) == sorted([*said(tmp_path).splitlines(), "a library later", "a library in C later"])
        assert ended.stderr[0] == "warning: ours\n"
        lines = (tmp_path / STARTUP_LOG_NAME).read_text().splitlines()
        assert len([line for line in lines if line.startswith("--- ") and "rank 0 on " in line]) == num_starts
        assert sorted(line for line in lines if not line.startswith("--- ")) == sorted(LIBRARIES * num_starts)


def test_a_mistake_is_one_sentence_as_before(tmp_path: Path) -> None:
    ended = start(tmp_path, "mistake")
    assert ended.exit_codes == [2] and ended.stdout[0] == said(tmp_path)
    assert ended.stderr[0] == "warning: ours\nerror: there is no such teacher\n"
    assert (tmp_path / STARTUP_LOG_NAME).exists()


def test_a_mistake_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    assert start(tmp_path / "runs" / "new", "mistake").exit_codes == [2]
    assert list(tmp_path.iterdir()) == []


def test_an_exception_is_shown_with_the_place_of_the_rest(tmp_path: Path) -> None:
    ended = start(tmp_path, "exception", fresh=True)  # a forked process would print its exceptions itself
    *_, raised, place = ended.stderr[0].splitlines()
    assert ended.exit_codes == [1] and raised == "RuntimeError: no driver"
    assert place == f"what libraries printed meanwhile is in {tmp_path / STARTUP_LOG_NAME}"


def test_a_crash_in_a_library_shows_where_it_was_called(tmp_path: Path) -> None:
    ended = start(tmp_path, "abort")
    assert ended.exit_codes == [-signal.SIGABRT]
    assert "Fatal Python error: Aborted" in ended.stderr[0] and "startup_ranks.py" in ended.stderr[0]


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_run_folder_that_cannot_be_made_redirects_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = start(tmp_path / place, "goes on")
    assert ended.exit_codes == [0] and "starting" not in ended.stdout[0]
    assert ended.stdout[0].startswith("a library in") and "a warning in Python" in ended.stderr[0]
