"""The dual encoder: features, heads that always run, names and sizes. CPU, seconds."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from model.config import DualHeads, MultiwayConfig
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from tests.support.tiny import CONFIG, tiny_dual_encoder, tiny_dual_inputs, tiny_inputs, tiny_targets

ALL_HEADS = DualHeads(logit_bias=True, masked_data=True)


def joined(one: MultiwayInputs, other: MultiwayInputs) -> MultiwayInputs:
    """Return images of one and of the other, the pairs of the other, texts of one and of the other."""
    names = ("images", "image_mask", "text_ids", "text_padding")
    both: dict[str, Any] = {name: torch.cat([getattr(one, name), getattr(other, name)]) for name in names}
    return replace(other, **both)


@pytest.mark.parametrize("counts", [(3, 2), (3, 0), (0, 2)])
@pytest.mark.parametrize("heads", [DualHeads(), ALL_HEADS])
def test_features_are_normalized_projections_of_the_first_tokens(heads: DualHeads, counts: tuple[int, int]) -> None:
    model, inputs = tiny_dual_encoder(heads), tiny_dual_inputs(*counts)
    features = model.features(inputs)
    states = model.encoder(inputs)
    images = normalize(states.images[:, 0] @ model.vision_head.weight.T, dim=1)
    texts = normalize(states.texts[:, 0] @ model.language_head.weight.T, dim=1)
    torch.testing.assert_close(features.images, images)
    torch.testing.assert_close(features.texts, texts)
    assert features.images.shape == (counts[0], CONFIG.dim) and not features.images.requires_grad
    outputs = model(inputs)
    assert torch.equal(outputs.images, features.images) and torch.equal(outputs.texts, features.texts)


def test_features_are_float32_and_of_length_one_in_bfloat16() -> None:
    model, inputs = tiny_dual_encoder().bfloat16(), tiny_dual_inputs(3, 2)
    features = model.features(replace(inputs, images=inputs.images.bfloat16()))
    for rows in features:
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_images_and_texts_do_not_see_each_other() -> None:
    model, inputs = tiny_dual_encoder(), tiny_dual_inputs(3, 3)
    other = replace(inputs, text_ids=inputs.text_ids.flip(0), text_padding=inputs.text_padding.flip(0))
    torch.testing.assert_close(model.features(other).images, model.features(inputs).images)


def test_masked_data_modeling_beside_it_is_that_of_the_pretraining_network() -> None:
    model, masked = tiny_dual_encoder(ALL_HEADS), tiny_inputs(1, 2, 2, seed=3)
    targets, inputs = tiny_targets(masked), tiny_dual_inputs(4, 3)
    outputs = model(joined(inputs, masked), None, targets)
    features = model.features(inputs)
    torch.testing.assert_close(outputs.images, features.images)
    torch.testing.assert_close(outputs.texts, features.texts)
    pretrained = MaskedDataModel(CONFIG)
    own = model.state_dict()
    pretrained.load_state_dict({name: own[name] for name in pretrained.state_dict()})
    torch.testing.assert_close(outputs.masked_losses, pretrained(masked, targets))


@pytest.mark.parametrize("heads", [DualHeads(), DualHeads(logit_bias=True), ALL_HEADS])
def test_every_parameter_has_a_gradient_and_that_of_what_is_not_used_is_zero(heads: DualHeads) -> None:
    model = tiny_dual_encoder(heads)
    outputs = model(tiny_dual_inputs(3, 2))
    parts = [outputs.images[:, 0].sum(), outputs.texts[:, 0].sum(), outputs.logit_scale]
    parts += [part.sum() for part in (outputs.logit_bias, outputs.masked_losses) if part is not None]
    torch.stack(parts).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    heads_of_masks = ("mim_head.weight", "mim_head.bias", "mlm_head.weight", "mlm_head.bias")
    unused = ("vision_language.fc1.weight", "vision_language.fc2.weight", "mask_token", *heads_of_masks)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter.grad, Tensor)
        assert bool(parameter.grad.any()) != name.endswith(unused), name


def test_state_dicts_have_microsofts_names_for_the_heads_and_numbers_without_dimensions() -> None:
    model, other = tiny_dual_encoder(ALL_HEADS, seed=1), tiny_dual_encoder(ALL_HEADS, seed=2)
    weights = model.state_dict()
    beside = {name: tuple(tensor.shape) for name, tensor in weights.items() if not name.startswith("encoder.")}
    assert {name: shape for name, shape in beside.items() if not name.startswith(("mim", "mlm"))} == {
        "vision_head.weight": (CONFIG.dim, CONFIG.dim),
        "language_head.weight": (CONFIG.dim, CONFIG.dim),
        "logit_scale": (),
        "logit_bias": (),
    }
    other.load_state_dict({name: tensor.clone() for name, tensor in weights.items()})
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())
    assert [name for name in tiny_dual_encoder().state_dict() if name.startswith("logit")] == ["logit_scale"]


def test_the_scale_starts_as_in_clip_and_with_a_bias_as_in_siglip() -> None:
    for heads, scale, bias in ((DualHeads(), 1 / 0.07, None), (DualHeads(logit_bias=True), 10, -10)):
        model = DualEncoder(CONFIG, heads)
        init_weights(model, CONFIG, seed=0)
        assert model.logit_scale.item() == pytest.approx(math.log(scale))
        assert (model.logit_bias is None) == (bias is None)
        assert model.logit_bias is None or model.logit_bias.item() == bias


@pytest.mark.parametrize(
    ("config", "encoder"),
    [
        (MultiwayConfig(attention="decoupled"), 220_987_392),
        (MultiwayConfig(attention="decoupled", dim=1024, depth=24, num_heads=16, ffn_dim=4096), 672_702_464),
    ],
)
def test_sizes_are_those_of_the_published_itc_files(config: MultiwayConfig, encoder: int) -> None:
    """Microsoft's encoders, two square matrices and one number: 222.2M and 674.8M, published as 222M and 674M."""
    with torch.device("meta"):
        model = DualEncoder(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + 2 * config.dim**2 + 1
