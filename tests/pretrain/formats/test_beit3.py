"""Converted weights in torchscale's BEiT3, the published implementation, and back. CPU, seconds."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import MultiwayConfig
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs, captioner_mask
from model.parameter_counts import parameter_shapes
from pretrain.checkpoints.weights import model_of
from pretrain.formats.beit3 import beit3_entries, decoupled_weights, places
from pretrain.formats.beit3_contents import config_of
from pretrain.formats.beit3_file import load_beit3
from pretrain.formats.role import Role
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model
from tests.support.torchscale_beit3 import build_torchscale_beit3, hidden_states, load_strictly

TOLERANCE: dict[str, Any] = {"atol": 2e-5, "rtol": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "shared": {"num_vl_layers": 0},
    "shared_vl": {"num_vl_layers": 1},
    "all_vl": {"num_vl_layers": 3},
    "decoupled": {"attention": "decoupled", "num_vl_layers": 0},
    "decoupled_vl": {"attention": "decoupled", "num_vl_layers": 2},
}
EXACT_USES: dict[Role, set[str]] = {
    "fusion": {"pair"},
    "dual": {"image", "text"},
    "vision": {"image"},
    "text": {"text"},
}
TABLE = [
    (variant, role, use)
    for variant, role, use in product(VARIANTS, EXACT_USES, ("image", "text", "pair"))
    if use in EXACT_USES[role] or VARIANTS[variant]["num_vl_layers"] == 0  # without such experts every role is exact
]


def beit3_state(model: MaskedDataModel, role: Role) -> dict[str, Tensor]:
    return dict(beit3_entries(model.state_dict().items(), model.encoder.config, role))


def torchscale_twin(state: dict[str, Tensor] | None = None, config: MultiwayConfig = CONFIG) -> torch.nn.Module:
    twin = build_torchscale_beit3(
        dim=config.dim,
        depth=config.depth,
        num_heads=config.num_heads,
        ffn_dim=config.ffn_dim,
        image_size=config.image_size,
        patch_size=config.patch_size,
        vocab_size=config.vocab_size,
        max_text_positions=config.max_text_length + 2,
    )
    if state is not None:
        load_strictly(twin, state)
    return twin


def inputs_of(use: str, is_padded: bool, is_masked: bool) -> MultiwayInputs:
    counts = {"image": (4, 0, 0), "text": (0, 0, 4), "pair": (0, 4, 0)}[use]
    inputs = tiny_inputs(*counts)
    if not is_padded:
        inputs = replace(
            inputs,
            caption_padding=torch.zeros_like(inputs.caption_padding),
            text_padding=torch.zeros_like(inputs.text_padding),
        )
    return inputs if is_masked else replace(inputs, image_mask=torch.zeros_like(inputs.image_mask))


def their_states(twin: torch.nn.Module, inputs: MultiwayInputs, use: str) -> list[Tensor]:
    """Return hidden states of images, captions and texts, without padding."""
    images, mask = inputs.images, inputs.image_mask.long()
    if use == "text":
        states = hidden_states(twin, ids=inputs.text_ids, padding=inputs.text_padding)
        return [states[~inputs.text_padding]]
    if use == "image":
        return [hidden_states(twin, images=images, image_mask=mask)]
    states = hidden_states(twin, ids=inputs.caption_ids, images=images, padding=inputs.caption_padding, image_mask=mask)
    pair_images, captions = states.split([CONFIG.num_image_tokens, inputs.caption_ids.shape[1]], dim=1)
    return [pair_images, captions[~inputs.caption_padding]]


def our_states(model: MaskedDataModel, inputs: MultiwayInputs, use: str) -> list[Tensor]:
    with torch.no_grad():
        states = model.encode(inputs)
    if use == "text":
        return [states.texts[~inputs.text_padding]]
    return [states.images] if use == "image" else [states.images, states.captions[~inputs.caption_padding]]


@pytest.mark.parametrize(("variant", "role", "use"), TABLE)
def test_hidden_states_are_torchscales(variant: str, role: Role, use: str) -> None:
    model = tiny_model(**VARIANTS[variant])
    twin = torchscale_twin(beit3_state(model, role))
    for is_padded, is_masked in product((False, True), repeat=2):
        inputs = inputs_of(use, is_padded, is_masked)
        assert is_padded == bool(inputs.caption_padding.any() or inputs.text_padding.any()) or use == "image"
        for ours, theirs in zip(our_states(model, inputs, use), their_states(twin, inputs, use), strict=True):
            torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_the_captioner_is_microsofts() -> None:
    model = tiny_model(num_vl_layers=0)
    inputs = replace(inputs_of("pair", is_padded=False, is_masked=False), causal_captions=True)
    num_captions = inputs.caption_ids.shape[1]
    forbidden = (~captioner_mask(CONFIG.num_image_tokens, num_captions, torch.device("cpu"))).long()
    theirs = hidden_states(
        torchscale_twin(beit3_state(model, "fusion")), ids=inputs.caption_ids, images=inputs.images,
        padding=inputs.caption_padding, forbidden=forbidden,
    )  # fmt: skip
    with torch.no_grad():
        states = model.encode(inputs)
    ours = torch.cat([states.images, states.captions], dim=1)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("role", EXACT_USES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_file_holds_what_microsofts_loader_expects(variant: str, role: Role) -> None:
    state = beit3_state(tiny_model(**VARIANTS[variant]), role)
    assert len(state) == 11 + 40 * CONFIG.depth + 4
    heads = [name for name in state if not name.startswith("beit3.")]
    assert sorted(heads) == ["mim_head.bias", "mim_head.weight", "mlm_head.bias", "mlm_head.weight"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    pointers = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(pointers)) == len(pointers)  # torch.save would write shared memory several times
    positions = state["beit3.encoder.embed_positions.A.weight"]
    assert positions.shape == (CONFIG.num_patches + 3, CONFIG.dim)


def test_the_roles_differ_in_the_top_layers_only() -> None:
    fusion, dual = beit3_state(tiny_model(), "fusion"), beit3_state(tiny_model(), "dual")
    different = {name for name in fusion if not torch.equal(fusion[name], dual[name])}
    assert different and all(name.startswith(f"beit3.encoder.layers.{CONFIG.depth - 1}.") for name in different)
    assert all(".ffn." in name or ".final_layer_norm." in name for name in different)


def microsofts_file(path: Path) -> dict[str, Tensor]:
    """Return a pretraining checkpoint like Microsoft's: torchscale's network and two heads, every weight random."""
    twin = torchscale_twin()
    heads = {
        "mlm_head": torch.nn.Linear(CONFIG.dim, CONFIG.vocab_size),
        "mim_head": torch.nn.Linear(CONFIG.dim, CONFIG.num_visual_tokens),
    }
    state = {f"beit3.{name}": tensor for name, tensor in twin.state_dict().items()}
    state |= {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    torch.save({"model": state}, path)
    return state


def test_microsofts_file_is_converted_to_ours_and_back_without_a_changed_bit(tmp_path: Path) -> None:
    theirs = microsofts_file(tmp_path / "beit3.pth")
    entries = load_beit3(tmp_path / "beit3.pth")
    config = config_of(entries, num_heads=CONFIG.num_heads)
    assert config == replace(CONFIG, attention="decoupled", num_vl_layers=0)
    model = model_of(config, decoupled_weights(entries, config))
    twin = torchscale_twin(theirs)
    for use in ("image", "text", "pair"):
        inputs = inputs_of(use, is_padded=True, is_masked=True)
        for ours, their in zip(our_states(model, inputs, use), their_states(twin, inputs, use), strict=True):
            torch.testing.assert_close(ours, their, **TOLERANCE)
    for role in EXACT_USES:
        again = beit3_state(model, role)
        assert set(again) == set(theirs)
        assert all(torch.equal(again[name], theirs[name]) for name in theirs)


def test_a_file_that_cannot_be_exact_is_refused(tmp_path: Path) -> None:
    state = microsofts_file(tmp_path / "beit3.pth")
    config = config_of(state, CONFIG.num_heads)
    with pytest.raises(ValueError, match="are not published, and no file holds heads"):
        config_of(state, None)
    with pytest.raises(ValueError, match=r"without a place here: beit3.extra.weight"):
        dict(decoupled_weights({**state, "beit3.extra.weight": torch.zeros(1)}, config))
    with pytest.raises(ValueError, match=r"has no mlm_head.bias: it is not a whole BEiT-3"):
        dict(decoupled_weights({name: value for name, value in state.items() if name != "mlm_head.bias"}, config))
    with pytest.raises(ValueError, match="encoder.extra.weight has no place"):
        dict(beit3_entries([("encoder.extra.weight", torch.zeros(1))], CONFIG, "fusion"))
    torch.save({"model": state, "args": math.sqrt}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="holds code .math.sqrt., which is not executed"):
        load_beit3(tmp_path / "code.pth")


@pytest.mark.parametrize(
    ("num_heads", "sizes"), [(12, (768, 12, 3072)), (16, (1024, 24, 4096)), (16, (1408, 40, 6144))], ids=str
)
def test_the_published_sizes_determine_their_heads(num_heads: int, sizes: tuple[int, int, int]) -> None:
    dim, depth, ffn_dim = sizes
    config = MultiwayConfig(
        attention="decoupled", dim=dim, depth=depth, ffn_dim=ffn_dim, num_heads=num_heads, vocab_size=8,
        num_visual_tokens=4, max_text_length=5,
    )  # fmt: skip
    shapes = parameter_shapes(config)
    theirs = {
        place.name: torch.empty(shape if place.third is None else (shape[0] // 3, *shape[1:]), device="meta")
        for name, shape in shapes.items()
        for place in places(name, "dual", shapes)
    }
    assert config_of(theirs, None) == config
    with pytest.raises(ValueError, match=f"has {num_heads} heads, not 8"):
        config_of(theirs, 8)
