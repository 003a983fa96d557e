"""A checkpoint folder holds what its manifest lists, and nothing else. CPU, seconds."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.checkpoints.manifest import MANIFEST_NAME, find_defect, read_manifest
from pretrain.checkpoints.reader import read_checkpoint
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.survival.step_guard import StepGuard
from tests.support.crafted import copy_of_run, seal


@pytest.fixture
def checkpoint(two_ranks: Path, tmp_path: Path) -> Path:
    """Return the checkpoint of a copied run, which is in tmp_path / "run"."""
    return copy_of_run(two_ranks, tmp_path / "run")


def linked(path: Path) -> None:
    """Replace a file by a link to the same content."""
    elsewhere = path.parents[2] / "elsewhere.pt"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FOREIGN: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("optimizer states", "x_optim_states.pt", lambda path: path.write_bytes(b"x"), "is not listed in manifest.json"),
    ("model states", "x_model_states.pt", lambda path: path.touch(), "is not listed in manifest.json"),
    ("hidden", ".hidden", lambda path: path.touch(), "is not listed in manifest.json"),
    ("temporary", "config.json~", lambda path: path.touch(), "is not listed in manifest.json"),
    ("not UTF-8", os.fsdecode(b"\xff.pt"), lambda path: path.touch(), "is not listed in manifest.json"),
    ("folder", "zero", lambda path: path.mkdir(), "is a folder"),
    ("link", "y_optim_states.pt", lambda path: path.symlink_to("/dev/null"), "is a symbolic link"),
    ("dead link", "y.pt", lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
    ("pipe", "pipe_model_states.pt", lambda path: os.mkfifo(path), "is not a regular file"),
    ("listed link", "config.json", linked, "is a symbolic link"),
    ("listed pipe", "config.json", piped, "is not a regular file"),
    ("linked manifest", MANIFEST_NAME, linked, "is a symbolic link"),
]


@pytest.mark.parametrize(("name", "put", "reason"), [case[1:] for case in FOREIGN], ids=[case[0] for case in FOREIGN])
def test_a_checkpoint_with_more_than_its_own_files_is_refused_by_name(
    checkpoint: Path, name: str, put: Callable[[Path], object], reason: str
) -> None:
    assert find_defect(checkpoint) is None
    put(checkpoint / name)
    for read in (
        lambda: find_checkpoint(checkpoint.parents[1]),
        lambda: find_checkpoint(checkpoint),
        lambda: read_checkpoint(checkpoint, PretrainConfig),
    ):
        with pytest.raises(
            ValueError, match="a checkpoint that holds more than its own files is not opened; "
        ) as error:
            read()
        assert str(error.value).startswith(f"{checkpoint / name} {reason}; ")


def test_a_manifest_that_lists_files_elsewhere_does_not_open_them(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.pt").write_bytes(b"outside")
    described = {"num_bytes": 7, "sha256": hashlib.sha256(b"outside").hexdigest()}
    manifest = json.loads((checkpoint / MANIFEST_NAME).read_text())
    for name in ("../../../outside.pt", str(tmp_path / "outside.pt")):
        content = {**manifest, "files": {**manifest["files"], name: described}}
        write_consistent(checkpoint, content)
        with pytest.raises(ValueError, match="outside.pt is damaged; give another checkpoint"):
            find_checkpoint(checkpoint)


def write_consistent(folder: Path, content: dict[str, object]) -> None:
    content.pop("sha256_of_the_rest", None)
    content["sha256_of_the_rest"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "many"),
        ("step", -1),
        ("step", None),
        ("world_size", 0),
        ("world_size", [2]),
        ("files", 5),
        ("files", {"config.json": 7}),
        ("guard_state", {}),
        ("guard_state", {**StepGuard(0, 1).state(), "recent_losses": 5}),
        ("guard_state", {**StepGuard(0, 1).state(), "num_skipped_steps": "no"}),
        ("memory_config", []),
        ("data_fingerprints", {"images": 5}),
        ("kind", {}),
    ],
)
def test_a_consistent_manifest_of_other_types_is_damaged(checkpoint: Path, name: str, value: object) -> None:
    content = json.loads((checkpoint / MANIFEST_NAME).read_text())
    write_consistent(checkpoint, {**content, name: value})
    with pytest.raises(ValueError, match=f"manifest.json is damaged: {name}"):
        read_manifest(checkpoint)
    with pytest.raises(ValueError, match="manifest.json is damaged; give another checkpoint"):
        find_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"null", b"{}", b"", b"\xff", b"{}" + b" " * (1 << 24)])
def test_a_file_that_is_not_a_manifest_is_damaged(checkpoint: Path, content: bytes) -> None:
    (checkpoint / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="manifest.json is damaged; give another checkpoint"):
        find_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config.update(num_steps="many"),
            "config.json is not a config of pretraining: num_steps .*Input should be a valid integer",
        ),
        (lambda config: config["model"].update(num_heads=0), "config.json is not a config of pretraining: "),
        (
            lambda config: config["model"].update(depth=10**9),
            r"does not hold the network|not a config of pretraining: .*depth",
        ),
        (
            lambda config: config["model"].update(dim=48 * 1000),
            r"does not hold the network|not a config of pretraining: .*dim",
        ),
        (lambda config: config.clear(), "config.json is not a config of pretraining"),
    ],
    ids=["type", "heads", "depth", "dim", "empty"],
)
def test_a_consistent_config_of_another_network_is_refused_before_that_is_built(
    checkpoint: Path, change: Callable[[dict[str, object]], None], message: str
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    change(config)
    (checkpoint / "config.json").write_text(json.dumps(config))
    seal(checkpoint)
    with pytest.raises(ValueError, match=message) as error:
        find_checkpoint(checkpoint)
    assert len(str(error.value).splitlines()) == 1
