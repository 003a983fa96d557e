"""Dual encoders in Microsoft's format: keys and sizes of their `itc` files, and features of their retrieval model.

CPU, seconds.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import DualHeads, MultiwayConfig
from model.dual_encoder import DualEncoder
from model.parameter_counts import parameter_shapes
from pretrain.checkpoints.weights import model_of
from pretrain.formats.beit3 import beit3_entries, decoupled, decoupled_weights, file_entries
from pretrain.formats.beit3_contents import config_of
from pretrain.formats.beit3_dual import DUAL_PARTS, is_dual, left_out
from pretrain.formats.beit3_file import save_beit3
from pretrain.formats.beit3_loaders import torchscale_arguments
from tests.pretrain.formats.test_beit3_contents import pretrained_state, tuned_state
from tests.support.launch import ON_CPU, ROOT, python_path
from tests.support.their_dual import TheirDualEncoder, their_dual
from tests.support.tiny import CONFIG, tiny_dual_encoder, tiny_dual_inputs

TOLERANCE: dict[str, Any] = {"atol": 2e-5, "rtol": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "shared": {"num_vl_layers": 0},
    "shared_vl": {"num_vl_layers": 1},
    "decoupled": {"attention": "decoupled", "num_vl_layers": 0},
    "decoupled_vl": {"attention": "decoupled", "num_vl_layers": 2},
}
BASE = MultiwayConfig()
LARGE = replace(BASE, dim=1024, depth=24, num_heads=16, ffn_dim=4096)
PACKAGES = ("beit3-gml==0.1.3", "torchscale-gml==0.2.3")
"""Microsoft's code, repackaged by Gimlet Labs. Without their dependencies, of which its network needs only ours."""


def file_of(network: DualEncoder) -> dict[str, Tensor]:
    return dict(file_entries(network.state_dict().items(), network.encoder.config, "dual", network.heads))


def entries_of(network: DualEncoder) -> dict[str, Tensor]:
    """Return the same with the text positions of the tiny network, which their code cannot have."""
    return dict(beit3_entries(network.state_dict().items(), network.encoder.config, "dual", network.heads))


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_those_of_their_retrieval_model(variant: str, is_padded: bool) -> None:
    network = tiny_dual_encoder(**VARIANTS[variant])
    inputs = tiny_dual_inputs(4, 4)
    padding = inputs.text_padding if is_padded else torch.zeros_like(inputs.text_padding)
    assert bool(padding.any()) == is_padded
    inputs = replace(inputs, text_padding=padding)
    theirs = their_dual(CONFIG, entries_of(network)).features(inputs.images, inputs.text_ids, padding)
    for our, their in zip(network.features(inputs), theirs, strict=True):
        assert our.norm(dim=1).allclose(torch.ones(4))
        torch.testing.assert_close(our, their, **TOLERANCE)


@pytest.mark.parametrize("heads", [DualHeads(), DualHeads(logit_bias=True, masked_data=True)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_has_exactly_their_keys(heads: DualHeads, variant: str) -> None:
    network = tiny_dual_encoder(heads, **VARIANTS[variant])
    state = file_of(network)
    expected = {name: tensor.shape for name, tensor in TheirDualEncoder(CONFIG).state_dict().items()}
    expected["beit3.encoder.embed_positions.B.weight"] = torch.Size([1024, CONFIG.dim])
    assert {name: tensor.shape for name, tensor in state.items()} == expected
    assert {name for name in state if not name.startswith("beit3.")} == set(DUAL_PARTS) and is_dual(state)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert state["logit_scale"].shape == () and torch.equal(state["logit_scale"], network.logit_scale.detach())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BASE, 222_167_041),
        (LARGE, 674_799_617),
        (replace(BASE, image_size=384), 222_458_881),
        (replace(LARGE, image_size=384), 675_188_737),
    ],
    ids=["base", "large", "base at 384 px", "large at 384 px"],
)
@pytest.mark.parametrize("attention", ["shared", "decoupled"])
def test_files_of_the_released_sizes_have_the_published_number_of_parameters(
    config: MultiwayConfig, count: int, attention: Any
) -> None:
    config = replace(config, attention=attention)
    shapes = parameter_shapes(config, DualHeads())
    weights = [(name, torch.empty(shape, device="meta")) for name, shape in shapes.items()]
    assert sum(tensor.numel() for _, tensor in file_entries(weights, config, "dual", DualHeads())) == count
    assert sum(shape.numel() for shape in parameter_shapes(decoupled(config), DualHeads()).values()) == count - (
        2 * config.dim if config.max_text_length + 2 < 1024 else 0
    )


def test_their_file_becomes_a_dual_encoder_and_their_file_again_without_a_changed_bit() -> None:
    theirs = TheirDualEncoder(CONFIG)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in theirs.state_dict().items()
    }
    config = config_of(state, CONFIG.num_heads)
    network = model_of(config, decoupled_weights(dict(state), config, heads=DualHeads()), DualHeads())
    assert network.heads == DualHeads()
    again = entries_of(network)
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    inputs = tiny_dual_inputs(3, 4)
    expected = their_dual(CONFIG, state).features(inputs.images, inputs.text_ids, inputs.text_padding)
    for our, their in zip(network.features(inputs), expected, strict=True):
        torch.testing.assert_close(our, their, **TOLERANCE)


def test_only_a_file_with_both_projections_and_without_heads_of_pretraining_is_a_dual_encoder() -> None:
    retrieval = tuned_state("retrieval")
    assert is_dual(retrieval) and not is_dual(pretrained_state()) and not is_dual(tuned_state("nlvr2"))
    for name in DUAL_PARTS:
        assert not is_dual(set(retrieval) - {name})
    assert not is_dual([*retrieval, "mlm_head.weight", "mlm_head.bias"])
    with pytest.raises(ValueError, match=r"beit3_itc.pth has no encoder.layer_norm"):
        lacking = {name: tensor for name, tensor in retrieval.items() if "encoder.layer_norm." not in name}
        dict(decoupled_weights(lacking, decoupled(CONFIG), owner="beit3_itc.pth", heads=DualHeads()))
    with pytest.raises(ValueError, match=r"has \(32, 16\) for vision_head.weight, expected \(32, 32\)"):
        narrow = retrieval | {"vision_head.weight": torch.zeros(32, 16)}
        dict(decoupled_weights(narrow, decoupled(CONFIG), heads=DualHeads()))


def test_what_their_format_has_no_place_for_is_named() -> None:
    assert left_out(replace(CONFIG, num_vl_layers=0), DualHeads()) == []
    said = left_out(CONFIG, DualHeads(logit_bias=True, masked_data=True))
    assert "vision-language experts of the top 1 layers" in said[0]
    assert "logit_bias" in said[1] and "mim_head and mlm_head" in said[2] and len(said) == 3


@pytest.mark.slow
def test_features_are_those_of_microsofts_own_classes(tmp_path: Path) -> None:
    """Install their code into a folder of its own, and compare with it; skipped without a network."""
    packages = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *PACKAGES]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    networks = {variant: tiny_dual_encoder(**changes) for variant, changes in VARIANTS.items()}
    inputs = tiny_dual_inputs(4, 4)
    assert inputs.text_padding.any()
    cases, out = tmp_path / "cases.pth", tmp_path / "features.pth"
    files = {variant: str(tmp_path / f"{variant}.pth") for variant in VARIANTS}
    for variant, network in networks.items():
        save_beit3(
            network.state_dict().items(), network.encoder.config, "dual", Path(files[variant]), heads=network.heads
        )
    given = {"images": inputs.images, "ids": inputs.text_ids, "padding": inputs.text_padding.long()}
    torch.save({"files": files, "torchscale": torchscale_arguments(CONFIG), **given}, cases)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.their_features", *map(str, (packages, cases, out))],
        env={**os.environ, **ON_CPU, "PYTHONPATH": python_path()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    theirs = torch.load(out, weights_only=True)
    for variant, network in networks.items():
        for name, ours, their in zip(("images", "texts"), network.features(inputs), theirs[variant], strict=True):
            difference = (their - ours).abs().max().item()
            print(f"{variant} {name}: largest difference {difference:.1e}")
            assert difference <= TOLERANCE["atol"]
