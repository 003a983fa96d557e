"""Checkpoints: damaged or crafted ones are refused or give the tensors that they hold; none runs code."""

import hashlib
import json
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import torch

from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case
from tests.support.launch import run_ranks
from tests.support.tiny_run import write_tiny_data

MANIFEST_NAME = "manifest.json"


class _Payload:
    """A payload that creates a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def make_case(shared: Path) -> Case:
    run = shared / "run"
    data = shared / "data"
    data.mkdir()
    overrides = write_tiny_data(data).overrides(run)
    ended = run_ranks(1, "pretrain.train", ["demo", *overrides, "--num-steps", "2", "--optimizer.warmup-steps", "1"])
    assert ended.exit_codes == [0], ended.stderr
    (original,) = (run / "checkpoints").glob("step_*")

    def case(rng: random.Random, folder: Path) -> str:
        copy, trace = folder / "checkpoints" / original.name, folder / "executed"
        shutil.copytree(original, copy)
        files = sorted(path for path in copy.iterdir() if path.is_file())
        chosen = rng.choice(files)
        if rng.random() < 0.4:
            _craft(chosen if rng.random() < 0.7 else copy / "zero_pp_rank_9_mp_rank_00_optim_states.pt", trace, rng)
        else:
            chosen.write_bytes(mutated(chosen.read_bytes(), rng))
        if rng.random() < 0.8:
            _make_consistent(copy)
        try:
            load_model(find_checkpoint(folder, PretrainConfig))
            outcome = "loaded"
        except (ValueError, OSError):
            outcome = "refused"
        assert not trace.exists(), "a payload was executed"
        return outcome

    return case


def _craft(path: Path, trace: Path, rng: random.Random) -> None:
    """Put a payload where torch.load, pickle or torch.jit.load would meet it."""
    form = rng.choice(("zip", "legacy", "pickle", "inside"))
    if form == "zip":
        torch.save({"module": _Payload(trace)}, path)
    elif form == "legacy":
        torch.save({"module": _Payload(trace)}, path, _use_new_zipfile_serialization=False)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(_Payload(trace)))
    else:
        _replace_pickle(path, pickle.dumps(_Payload(trace), protocol=2))


def _replace_pickle(path: Path, payload: bytes) -> None:
    """Replace data.pkl in a file of torch.save by the payload, and keep the tensors."""
    if not path.exists() or not zipfile.is_zipfile(path):
        path.write_bytes(payload)
        return
    with zipfile.ZipFile(path) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in contents.items():
            target.writestr(name, payload if name.endswith("data.pkl") else content)


def _make_consistent(folder: Path) -> None:
    """Make the manifest describe the files as they are, as an attacker would."""
    try:
        content = json.loads((folder / MANIFEST_NAME).read_bytes())
        files = sorted(path for path in folder.iterdir() if path.name != MANIFEST_NAME)
        content["files"] = {
            path.name: {
                "num_bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        }
        content.pop("sha256_of_the_rest", None)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        (folder / MANIFEST_NAME).write_text(json.dumps({**content, "sha256_of_the_rest": digest}))
    except (ValueError, TypeError, AttributeError):  # the manifest itself is damaged
        return
