"""Converted weights in torchscale's BEiT3, the published implementation: strict loading and equal hidden states."""

from typing import Any

import pytest
import torch

from pretrain.convert import Role, beit3_state_dict
from tests.tiny import CONFIG, tiny_inputs, tiny_model
from tests.torchscale_beit3 import build_torchscale_beit3, hidden_states, load_strictly

TOLERANCE: dict[str, Any] = {"atol": 2e-5, "rtol": 0}
VARIANTS = pytest.mark.parametrize(
    "changes",
    [{}, {"attention": "decoupled", "num_vl_layers": 0}, {"num_vl_layers": 0}, {"num_vl_layers": 3}],
    ids=["shared_vl", "decoupled", "shared_no_vl", "all_vl"],
)


def torchscale_twin(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    twin = build_torchscale_beit3(
        dim=CONFIG.dim,
        depth=CONFIG.depth,
        num_heads=CONFIG.num_heads,
        ffn_dim=CONFIG.ffn_dim,
        image_size=CONFIG.image_size,
        patch_size=CONFIG.patch_size,
        vocab_size=CONFIG.vocab_size,
        max_text_positions=CONFIG.max_text_length + 2,
    )
    load_strictly(twin, state)
    return twin


@VARIANTS
def test_role_fusion_on_pairs(changes: dict[str, Any]) -> None:
    model, inputs = tiny_model(**changes), tiny_inputs(0, 5, 0)
    assert inputs.caption_padding.any() and inputs.image_mask.any()
    twin = torchscale_twin(beit3_state_dict(model.state_dict(), "fusion"))
    with torch.no_grad():
        ours = model.encode(inputs)
    theirs = hidden_states(
        twin,
        ids=inputs.caption_ids,
        images=inputs.images,
        padding=inputs.caption_padding,
        image_mask=inputs.image_mask.long(),
    )
    theirs_images, theirs_captions = theirs.split([CONFIG.num_image_tokens, inputs.caption_ids.shape[1]], dim=1)
    torch.testing.assert_close(ours.images, theirs_images, **TOLERANCE)
    real = ~inputs.caption_padding
    torch.testing.assert_close(ours.captions[real], theirs_captions[real], **TOLERANCE)


@VARIANTS
def test_role_dual_on_images_alone_and_on_texts_alone(changes: dict[str, Any]) -> None:
    model, inputs = tiny_model(**changes), tiny_inputs(4, 0, 5)
    twin = torchscale_twin(beit3_state_dict(model.state_dict(), "dual"))
    with torch.no_grad():
        ours = model.encode(inputs)
    theirs = hidden_states(twin, images=inputs.images, image_mask=inputs.image_mask.long())
    torch.testing.assert_close(ours.images, theirs, **TOLERANCE)
    theirs = hidden_states(twin, ids=inputs.text_ids, padding=inputs.text_padding)
    real = ~inputs.text_padding
    torch.testing.assert_close(ours.texts[real], theirs[real], **TOLERANCE)


@pytest.mark.parametrize("role", ["fusion", "dual"])
def test_the_file_holds_what_microsofts_loader_expects(role: Role) -> None:
    state = beit3_state_dict(tiny_model().state_dict(), role)
    assert len(state) == 11 + 40 * CONFIG.depth + 4
    heads = [name for name in state if not name.startswith("beit3.")]
    assert sorted(heads) == ["mim_head.bias", "mim_head.weight", "mlm_head.bias", "mlm_head.weight"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    pointers = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(pointers)) == len(pointers)  # torch.save would write shared memory whole, again and again
    positions = state["beit3.encoder.embed_positions.A.weight"]
    assert positions.shape == (CONFIG.num_patches + 3, CONFIG.dim)


def test_the_roles_differ_in_the_top_layers_only() -> None:
    weights = tiny_model().state_dict()
    fusion, dual = beit3_state_dict(weights, "fusion"), beit3_state_dict(weights, "dual")
    different = {name for name in fusion if not torch.equal(fusion[name], dual[name])}
    assert different and all(name.startswith(f"beit3.encoder.layers.{CONFIG.depth - 1}.") for name in different)
    assert all(".ffn." in name or ".final_layer_norm." in name for name in different)


def test_a_weight_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder.extra.weight has no place"):
        beit3_state_dict({"encoder.extra.weight": torch.zeros(1)}, "fusion")
