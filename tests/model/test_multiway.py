"""The packed network: against three separate forwards of itself, and under its invariants. CPU, seconds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import Checkpointing, CheckpointingMode
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import BlockStates, MultiwayInputs
from model.objective import IGNORE_INDEX
from model.residual import add_branch
from model.stochastic_depth import drop_path_scales
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets

NUM_IMAGES, NUM_PAIRS, NUM_TEXTS = 2, 3, 4
VARIANTS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "decoupled", "num_vl_layers": 0},
        {"checkpointing": Checkpointing("full")},
        {"drop_path_rate": 0.3},
    ],
    ids=["shared", "decoupled", "checkpointing", "drop_path"],
)


def only(kind: str, inputs: MultiwayInputs, targets: MaskedTargets) -> tuple[MultiwayInputs, MaskedTargets, slice]:
    """Return the inputs and targets of one kind, and its slice of all samples of the step."""
    images = {"images": slice(0, NUM_IMAGES), "pairs": slice(NUM_IMAGES, None), "texts": slice(0, 0)}[kind]
    pairs = slice(None) if kind == "pairs" else slice(0, 0)
    texts = slice(None) if kind == "texts" else slice(0, 0)
    samples = {
        "images": slice(0, NUM_IMAGES),
        "pairs": slice(NUM_IMAGES, NUM_IMAGES + NUM_PAIRS),
        "texts": slice(NUM_IMAGES + NUM_PAIRS, None),
    }[kind]
    part = MultiwayInputs(
        images=inputs.images[images],
        image_mask=inputs.image_mask[images],
        caption_ids=inputs.caption_ids[pairs],
        caption_padding=inputs.caption_padding[pairs],
        text_ids=inputs.text_ids[texts],
        text_padding=inputs.text_padding[texts],
    )
    asked = MaskedTargets(
        image_positions=targets.image_positions[images],
        visual_token_ids=targets.visual_token_ids[images],
        caption_positions=targets.caption_positions[pairs],
        caption_labels=targets.caption_labels[pairs],
        text_positions=targets.text_positions[texts],
        text_labels=targets.text_labels[texts],
    )
    return part, asked, samples


def gradients(model: MaskedDataModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@VARIANTS
@pytest.mark.parametrize("whole_pairs", [[], [1], [0, 1, 2]], ids=str)
def test_one_packed_step_equals_three_separate_forwards(whole_pairs: list[int], changes: dict[str, Any]) -> None:
    model = tiny_model(**changes).train()
    inputs = tiny_inputs(NUM_IMAGES, NUM_PAIRS, NUM_TEXTS)
    targets = tiny_targets(inputs)
    for pair in whole_pairs:
        inputs.image_mask[NUM_IMAGES + pair] = False
        targets.visual_token_ids[NUM_IMAGES + pair] = IGNORE_INDEX
    scales = drop_path_scales(1, torch.arange(9), CONFIG.depth, model.encoder.config.drop_path_rate)

    packed_losses = model(inputs, targets, scales)
    packed_losses.sum().backward()
    packed = gradients(model)
    assert set(packed) == {name for name, _ in model.named_parameters()}

    model.zero_grad()
    separate_losses = torch.zeros(4)
    for kind in ("images", "pairs", "texts"):
        part, asked, samples = only(kind, inputs, targets)
        losses = model(part, asked, scales[:, :, samples])
        losses.sum().backward()
        separate_losses += losses.detach()
    torch.testing.assert_close(packed_losses, separate_losses, atol=1e-5, rtol=1e-5)
    assert (packed_losses[2] == 0) == (len(whole_pairs) == NUM_PAIRS)  # whole images have no labels
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("counts", [(2, 0, 0), (0, 2, 0), (0, 0, 2), (0, 0, 0)], ids=str)
def test_every_parameter_has_a_gradient_even_if_kinds_are_absent(counts: tuple[int, int, int]) -> None:
    model = tiny_model().train()
    inputs = tiny_inputs(*counts)
    model(inputs, tiny_targets(inputs)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_content_of_padding_changes_nothing() -> None:
    model, inputs = tiny_model(), tiny_inputs(1, 3, 4)
    other = replace(
        inputs,
        caption_ids=torch.where(inputs.caption_padding, 5, inputs.caption_ids),
        text_ids=torch.where(inputs.text_padding, 5, inputs.text_ids),
    )
    with torch.no_grad():
        before, after = model.encode(inputs), model.encode(other)
    torch.testing.assert_close(before.images, after.images, atol=0, rtol=0)
    for ours, others, padding in (
        (before.captions, after.captions, inputs.caption_padding),
        (before.texts, after.texts, inputs.text_padding),
    ):
        torch.testing.assert_close(ours, others, atol=0, rtol=0)
        assert padding.any() and not ours[padding].any() and ours[~padding].any(dim=1).all()


def test_lengths_known_to_the_host_give_the_same_as_those_read_from_the_device() -> None:
    model, inputs = tiny_model(), tiny_inputs(1, 3, 4)
    targets = tiny_targets(inputs)
    known = replace(
        inputs,
        caption_lengths=tuple((~inputs.caption_padding).sum(1).tolist()),
        text_lengths=tuple((~inputs.text_padding).sum(1).tolist()),
    )
    asked = replace(targets, caption_counts=(2, 3, 2), text_counts=(1, 2, 1, 2))
    assert inputs.layout().pairs.lengths == known.layout().pairs.lengths
    with torch.no_grad():
        torch.testing.assert_close(model(known, asked), model(inputs, targets), atol=0, rtol=0)
        with pytest.raises(RuntimeError, match="size"):
            model(replace(known, text_lengths=(10, 10, 10, 10)), asked)


def test_a_dropped_sample_passes_unchanged_and_the_others_are_untouched() -> None:
    model, inputs = tiny_model(), tiny_inputs(2, 1, 0)
    scales = torch.ones(CONFIG.depth, 2, 3)
    scales[:, :, 1] = 0  # all branches of the second image
    with torch.no_grad():
        layout = inputs.layout()
        normed = model.encoder.norm(model.encoder.pack(inputs, layout), layout, "reference")
        embedded = model.encoder.unpack(normed, inputs, layout)
        dropped, full = model.encoder(inputs, scales), model.encoder(inputs)
    torch.testing.assert_close(dropped.images[1], embedded.images[1])
    torch.testing.assert_close(dropped.images[[0, 2]], full.images[[0, 2]])
    assert not torch.allclose(dropped.images[1], full.images[1], atol=1e-2)


def test_the_vision_language_expert_serves_pairs_only() -> None:
    model, inputs = tiny_model(), tiny_inputs(1, 1, 1)
    with torch.no_grad():
        before = model.encode(inputs)
        model.get_parameter("encoder.blocks.2.experts.vision_language.fc2.weight").mul_(-1)
        after = model.encode(inputs)
    torch.testing.assert_close(before.images[0], after.images[0], atol=0, rtol=0)
    torch.testing.assert_close(before.texts, after.texts, atol=0, rtol=0)
    assert not torch.allclose(before.images[1], after.images[1], atol=1e-2)
    assert not torch.allclose(before.captions, after.captions, atol=1e-2)


def test_inputs_of_wrong_sizes_are_refused_with_a_remedy() -> None:
    model, inputs = tiny_model(), tiny_inputs(1, 0, 0)
    with pytest.raises(ValueError, match="image_mask has 16 patches, the images have 5 x 5"):
        model.encode(replace(inputs, images=torch.zeros(1, 3, 40, 40)))
    with pytest.raises(ValueError, match="images are 30 x 30; resize them to multiples of patch_size 8"):
        model.encode(replace(inputs, images=torch.zeros(1, 3, 30, 30)))
    long_text = torch.full((1, 13), 5)
    with pytest.raises(ValueError, match="exceeds max_text_length 12"):
        model.encode(replace(inputs, text_ids=long_text, text_padding=torch.zeros(1, 13, dtype=torch.bool)))


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_states_after_a_block_are_those_of_a_network_that_ends_with_it(mode: CheckpointingMode) -> None:
    inputs = tiny_inputs(NUM_IMAGES, NUM_PAIRS, NUM_TEXTS)
    whole = tiny_model(checkpointing=Checkpointing(mode, every=2)).encoder
    found = BlockStates(frozenset({1, 2, CONFIG.depth}))
    final = whole(inputs, block_states=found)
    assert set(found.states) == {1, 2, CONFIG.depth}
    layout = inputs.layout()
    for depth, states in found.states.items():
        x, branch = whole.pack(inputs, layout), None
        for block in list(whole.blocks)[:depth]:
            x, branch = block(x, branch, layout)
        assert branch is not None
        expected = whole.unpack(add_branch(x, branch), inputs, layout)
        for ours, theirs in zip(states, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert torch.equal(whole(inputs).images, final.images)  # asking for states changes nothing
    assert not torch.allclose(found.states[CONFIG.depth].images, final.images, atol=1e-2)  # without the final norm
