"""Choice of a run's checkpoint, and reports on the others. CPU, seconds."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from pretrain.checkpoints.manifest import MANIFEST_NAME
from pretrain.checkpoints.reader import (
    agreed_latest_checkpoint,
    complete_folders,
    is_checkpoint,
    latest_checkpoint,
    read_checkpoint,
)
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.visual_tokenizer import VisualTokenizerRun
from pretrain.survival.agreement import FatalRunError, RetryableRunError
from tests.support.crafted import copy_of_run
from tests.support.mistakes import only_rank
from tests.support.unreadable import forbidden


@pytest.fixture
def checkpoint(two_ranks: Path, tmp_path: Path) -> Path:
    """Return the checkpoint of a copied run, which is in tmp_path / "run"."""
    return copy_of_run(two_ranks, tmp_path / "run")


def older(checkpoint: Path) -> Path:
    """Return a copy that stands for an earlier checkpoint."""
    copy = checkpoint.with_name("step_00000004")
    shutil.copytree(checkpoint, copy)
    return copy


@pytest.mark.parametrize("name", ["", MANIFEST_NAME, "config.json"])
def test_a_checkpoint_that_cannot_be_read_is_skipped_with_a_warning(
    checkpoint: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before, path = older(checkpoint), checkpoint / name
    with forbidden(path):
        found = latest_checkpoint(checkpoint.parents[1], PretrainConfig)
        assert found is not None and found.folder == before
        warning = (
            f"warning: checkpoint file {path} cannot be read (Permission denied); the checkpoint before it is used"
        )
        assert warning in capfd.readouterr().err
        shown = f"checkpoint file {path} cannot be read .Permission denied.; give another checkpoint"
        with pytest.raises(ValueError, match=shown):
            read_checkpoint(checkpoint, PretrainConfig)


def test_permission_is_not_damage_and_starts_no_new_run(checkpoint: Path) -> None:
    run_dir = checkpoint.parents[1]
    message = (
        rf"no checkpoint of {run_dir} can be used: .*config.json cannot be read \(Permission denied\); make it read"
    )
    with forbidden(checkpoint / "config.json"), pytest.raises(ValueError, match=message):
        latest_checkpoint(run_dir, PretrainConfig)


@pytest.mark.slow
def test_a_folder_of_checkpoints_that_cannot_be_listed_is_not_taken_for_an_empty_one(checkpoint: Path) -> None:
    folder, run_dir = checkpoint.parent, checkpoint.parents[1]
    with forbidden(folder), pytest.raises(OSError, match=rf"{folder} cannot be read \(Permission denied\); make it"):
        latest_checkpoint(run_dir, PretrainConfig)
    shutil.rmtree(folder)
    assert latest_checkpoint(run_dir, PretrainConfig) is None
    folder.write_text("a file")
    with pytest.raises(OSError, match=rf"{folder} cannot be read \(Not a directory\)"):
        latest_checkpoint(run_dir, PretrainConfig)


def test_a_checkpoint_on_a_failing_disk_is_skipped(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before, broken, known = older(checkpoint), checkpoint / "config.json", Path.open

    def fail(path: Path, *arguments: object, **named: object) -> object:
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return known(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr("data_pipeline.files.retries.FIRST_WAIT_SECONDS", 0.0)
    found = latest_checkpoint(checkpoint.parents[1], PretrainConfig)
    assert found is not None and found.folder == before
    assert f"{broken} cannot be read (Input/output error); the checkpoint before it is used" in capfd.readouterr().err


def test_a_checkpoint_is_opened_as_the_kind_that_its_manifest_has(checkpoint: Path) -> None:
    for kinds in ((PretrainConfig,), (VisualTokenizerRun, PretrainConfig)):
        found = read_checkpoint(checkpoint, *kinds)
        assert type(found.config) is PretrainConfig and (found.step, found.num_updates, found.world_size) == (8, 8, 2)
    message = f"{checkpoint} is a checkpoint of pretraining, not of a visual tokenizer's training; give another folder"
    with pytest.raises(ValueError, match=message):
        read_checkpoint(checkpoint, VisualTokenizerRun)


def test_folders_without_a_manifest_or_of_another_name_are_not_checkpoints(checkpoint: Path) -> None:
    before, partial = older(checkpoint), checkpoint.with_name("step_00000012.partial")
    shutil.copytree(checkpoint, partial)
    checkpoint.with_name("step_00000016").mkdir()
    assert complete_folders(checkpoint.parent) == [before, checkpoint]
    assert is_checkpoint(before) and not is_checkpoint(partial) and not is_checkpoint(checkpoint.parents[1])


def test_ranks_agree_on_the_newest_checkpoint_and_report_the_others(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = read_checkpoint(checkpoint, PretrainConfig).config
    before, empty = older(checkpoint), checkpoint.with_name("step_00000016")
    config = PretrainConfig(**{**vars(config), "run_dir": checkpoint.parents[1]})
    empty.mkdir()
    os.truncate(checkpoint / "config.json", 10)
    with only_rank():
        found = agreed_latest_checkpoint(config)
        assert found is not None and found.folder == before
        warnings = capfd.readouterr().err.splitlines()
        assert warnings[0] == f"warning: {empty} has no manifest.json and is ignored"
        assert warnings[1].endswith("config.json is damaged; the checkpoint before it is used")
        os.truncate(before / "config.json", 10)
        with pytest.raises(FatalRunError, match=r"^every checkpoint of .* is damaged; give a new run_dir$"):
            agreed_latest_checkpoint(config)
        shutil.rmtree(checkpoint.parent)
        assert agreed_latest_checkpoint(config) is None


def test_a_disk_that_may_come_back_starts_no_new_run(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_checkpoint(checkpoint, PretrainConfig).config
    config = PretrainConfig(**{**vars(config), "run_dir": checkpoint.parents[1]})
    known = Path.open

    def fail(path: Path, *arguments: object, **named: object) -> object:
        if path.name == "config.json":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return known(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr("data_pipeline.files.retries.FIRST_WAIT_SECONDS", 0.0)
    with only_rank(), pytest.raises(RetryableRunError, match=r"can be used: .*config.json cannot be read"):
        agreed_latest_checkpoint(config)
