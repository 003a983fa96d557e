"""Checkpoint files that a rank writes: snapshots, checksums, failures. CPU, seconds."""

import hashlib
import threading
from pathlib import Path

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum

from pretrain.checkpoints.background_files import BackgroundCheckpointEngine, read_state, write_file


def test_a_file_is_loaded_by_torch_and_its_checksum_is_right(tmp_path: Path) -> None:
    weights = torch.randn(1000)
    described = write_file(tmp_path / "state.pt", {"weights": weights, "step": 3})
    content = (tmp_path / "state.pt").read_bytes()
    assert described == {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(loaded["weights"], weights) and loaded["step"] == 3


def test_changes_after_a_snapshot_are_not_in_the_file(tmp_path: Path) -> None:
    files, weights = BackgroundCheckpointEngine(), torch.zeros(2_000_000)
    files.begin(tmp_path)
    files.save({"weights": weights, "parts": [weights[:5]], "shape": weights.shape}, str(tmp_path / "state.pt"))
    weights.fill_(1)
    assert set(files.written()) == {"state.pt"}
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert not loaded["weights"].any() and not loaded["parts"][0].any()
    assert isinstance(loaded["shape"], torch.Size)


def test_the_zero_stage_is_saved_as_its_number(tmp_path: Path) -> None:
    """Python 3.11.2 would save a call of getattr, which no reader takes for data."""
    files = BackgroundCheckpointEngine()
    files.begin(tmp_path)
    files.save({"optimizer_state_dict": {"zero_stage": ZeroStageEnum.weights}}, str(tmp_path / "state.pt"))
    files.written()
    stage = read_state(tmp_path / "state.pt")["optimizer_state_dict"]["zero_stage"]
    assert type(stage) is int and stage == ZeroStageEnum.weights


def test_a_full_disk_is_reported_on_request_and_not_raised_on_one_rank_only() -> None:
    files = BackgroundCheckpointEngine()
    files.begin(Path("/dev"))
    files.save({"weights": torch.zeros(1_000_000)}, "/dev/full")
    with pytest.raises(OSError, match=r"/dev/full cannot be written \(No space left on device\); free space"):
        files.written()


def test_a_file_system_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "comes" / "state.pt"
    threading.Timer(0.8, path.parent.mkdir).start()
    write_file(path, {"step": 1})
    assert torch.load(path, weights_only=True) == {"step": 1}
