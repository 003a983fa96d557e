"""Networks and encoders from checkpoints, of pretraining and of a kind of run that does not exist yet. CPU, seconds."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from data_pipeline.loading.config import SamplesPerStep
from data_pipeline.settings.ranges import SampleCount
from pretrain.checkpoints import weights
from pretrain.checkpoints.manifest import MANIFEST_NAME
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint, load_encoder, load_model
from pretrain.config.kinds import ENCODER_RUNS
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import EncoderRunConfig
from tests.support.crafted import copy_of_run, seal

HEADS = {"mlm_head.weight": "text_proj.weight", "mim_head.weight": "image_proj.weight"}


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(EncoderRunConfig):
    """A kind of run with its own heads and settings."""

    pairs_per_step: SampleCount
    temperature: float = 0.07

    KIND: ClassVar[str] = "contrastive pretraining"

    @property
    def samples_per_step(self) -> SamplesPerStep:
        return SamplesPerStep(0, self.pairs_per_step, 0)


@pytest.fixture
def contrastive(two_ranks: Path, tmp_path: Path) -> Path:
    """Return the checkpoint of a contrastive run in tmp_path / "run", with the encoder of `two_ranks`."""
    folder = copy_of_run(two_ranks, tmp_path / "run")
    saved = json.loads((folder / "config.json").read_text())
    known = {name: saved[name] for name in ContrastiveConfig.__dataclass_fields__ if name in saved}
    (folder / "config.json").write_text(json.dumps(known | {"temperature": 0.05}))
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest | {"kind": ContrastiveConfig.KIND}))
    rename_parameters(folder, lambda name: HEADS.get(name, name))
    return folder


def rename_parameters(folder: Path, renamed: Callable[[str], str]) -> None:
    for path in folder.glob("*model_states.pt"):
        state = torch.load(path, weights_only=False)  # written by the run of this test
        state["module"] = {renamed(name): value for name, value in state["module"].items()}
        state["param_shapes"] = [
            type(group)((renamed(name), shape) for name, shape in group.items()) for group in state["param_shapes"]
        ]
        torch.save(state, path)
    seal(folder)


def encoder_of(run_dir: Path) -> dict[str, Any]:
    found = dict(checkpoint_weights(find_checkpoint(run_dir)))
    return {name.removeprefix("encoder."): found[name] for name in found if name.startswith("encoder.")}


def test_a_network_and_its_encoder_hold_the_weights_of_a_run(two_ranks: Path) -> None:
    checkpoint, expected = find_checkpoint(two_ranks, PretrainConfig), encoder_of(two_ranks)
    model, encoder = load_model(checkpoint), load_encoder(checkpoint)
    assert not model.training and not encoder.training
    for found in (model.encoder.state_dict(), encoder.state_dict()):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_encoder_of_another_kind_of_run_is_found_and_loaded(
    contrastive: Path, two_ranks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = find_checkpoint(contrastive, ContrastiveConfig)
    assert known.config.temperature == 0.05 and known.config.model == find_checkpoint(two_ranks).config.model
    with pytest.raises(ValueError, match=f"{contrastive} is a checkpoint of contrastive pretraining, not of pretrain"):
        find_checkpoint(tmp_path / "run", PretrainConfig)
    monkeypatch.setattr(weights, "ENCODER_RUNS", (*ENCODER_RUNS, ContrastiveConfig))  # as if listed in config/kinds.py
    checkpoint, expected = find_checkpoint(tmp_path / "run"), encoder_of(two_ranks)
    assert checkpoint == known
    found = load_encoder(checkpoint).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_encoder_that_differs_from_the_config_is_refused(contrastive: Path) -> None:
    rename_parameters(contrastive, lambda name: name.replace("encoder.norm.", "encoder.last_norm."))
    with pytest.raises(ValueError, match=r"does not hold the network of its config.json; give another checkpoint"):
        find_checkpoint(contrastive, ContrastiveConfig)


def test_an_encoder_with_a_weight_that_is_not_finite_is_refused(contrastive: Path) -> None:
    for path in contrastive.glob("*optim_states.pt"):
        state = torch.load(path, weights_only=False)
        state["optimizer_state_dict"]["fp32_flat_groups"][0].fill_(torch.inf)
        torch.save(state, path)
    seal(contrastive)
    with pytest.raises(ValueError, match="has NaN or infinity for encoder"):
        load_encoder(find_checkpoint(contrastive, ContrastiveConfig))


def test_heads_of_pretraining_are_compared_with_the_config(two_ranks: Path, tmp_path: Path) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    rename_parameters(folder, lambda name: HEADS.get(name, name))
    with pytest.raises(ValueError, match=r"does not hold the network of its config.json"):
        find_checkpoint(folder)


def test_a_folder_that_is_neither_a_run_nor_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist; give a run folder or a checkpoint folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is not a complete checkpoint: it has no manifest.json"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"^run .* has no complete checkpoint yet$"):
        find_checkpoint(tmp_path)
