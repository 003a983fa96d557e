"""Files that are complete or absent."""

import multiprocessing
from pathlib import Path

from data_pipeline.files.partial_files import own_partial, write_text_atomically


def test_no_two_processes_share_the_name_of_a_partial_file(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        theirs = pool.apply(own_partial, (tmp_path / "plan.txt",))
    assert theirs != own_partial(tmp_path / "plan.txt") == own_partial(tmp_path / "plan.txt")


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_text("old, and longer")
    with path.open() as reader:
        write_text_atomically(path, "new")
        assert reader.read() == "old, and longer"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
