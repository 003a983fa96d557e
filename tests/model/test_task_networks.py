"""Networks of tasks: what their answers depend on. CPU, seconds. Their sizes: tests/pretrain/formats."""

from dataclasses import replace

import pytest
import torch

from model.config import CaptionHead, ClassHead, Nlvr2Head, TaskHead, VqaHead
from model.experts import FinalNorm
from model.task_networks import CaptionNetwork, ClassifyNetwork, build_task_network
from tests.support.tiny import CONFIG, TINY_HEADS, tiny_caption_targets, tiny_task_inputs, tiny_task_network


def shape_of(heads: TaskHead) -> tuple[int, ...]:
    shapes = {"vqa": (4, 7), "nlvr2": (2, 2), "caption": (4, 7, CONFIG.vocab_size), "classify": (4, 5)}
    return shapes[heads.TASK]


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_logits_are_float32_in_any_precision(heads: TaskHead) -> None:
    network, inputs = tiny_task_network(heads), tiny_task_inputs(heads)
    logits = network(inputs)
    assert logits.shape == shape_of(heads) and network.heads == heads
    rounded = network.bfloat16()(replace(inputs, images=inputs.images.bfloat16()))
    assert logits.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, logits, atol=0.3, rtol=0)


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_networks_of_vqa_and_classify_alone_have_no_final_norm(heads: TaskHead) -> None:
    network = tiny_task_network(heads)
    assert isinstance(network.encoder.norm, FinalNorm) == heads.FINAL_NORM == (heads.TASK in ("nlvr2", "caption"))
    assert any(name.startswith("encoder.norm.") for name in network.state_dict()) == heads.FINAL_NORM


@torch.no_grad()
def test_an_answer_depends_on_the_image_and_on_the_question() -> None:
    network, inputs = tiny_task_network(VqaHead(7)), tiny_task_inputs(VqaHead(7))
    logits = network(inputs)
    other_image = network(replace(inputs, images=inputs.images.roll(1, 0)))
    other_words = inputs.caption_ids.clone()
    other_words[:, 1] = (other_words[:, 1] - 3) % 40 + 4
    assert ((logits - other_image).abs().amax(1) > 1e-3).all()
    assert ((logits - network(replace(inputs, caption_ids=other_words))).abs().amax(1) > 1e-3).all()


@torch.no_grad()
def test_truth_depends_on_both_images_and_on_their_order() -> None:
    network, inputs = tiny_task_network(Nlvr2Head()), tiny_task_inputs(Nlvr2Head())
    logits = network(inputs)
    for order in ([2, 1, 2, 3], [0, 1, 0, 3], [2, 3, 0, 1]):  # another first image, another second one, exchanged
        other = network(replace(inputs, images=inputs.images[order]))
        assert (logits[0] - other[0]).abs().max() > 1e-3


@torch.no_grad()
def test_a_word_of_a_caption_depends_on_the_image_and_on_no_later_word() -> None:
    network, inputs = tiny_task_network(CaptionHead()), tiny_task_inputs(CaptionHead())
    logits, words = network(inputs), inputs.caption_ids.clone()
    words[:, 2] = (words[:, 2] - 3) % 40 + 4
    other = network(replace(inputs, caption_ids=words))
    torch.testing.assert_close(other[:, :2], logits[:, :2])
    assert ((other - logits)[:, 2].abs().amax(1) > 1e-3).all()
    assert ((network(replace(inputs, images=inputs.images.roll(1, 0))) - logits)[:, 1].abs().amax(1) > 1e-3).all()
    with pytest.raises(AssertionError, match="must not see those after it"):
        network(replace(inputs, causal_captions=False))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_masked_words_are_those_of_their_logits(smoothing: float) -> None:
    network, inputs = tiny_task_network(CaptionHead()), tiny_task_inputs(CaptionHead())
    assert isinstance(network, CaptionNetwork)
    targets = tiny_caption_targets(inputs)
    losses = network(inputs, None, targets, smoothing)
    used = targets.labels >= 0
    logits = network(inputs).gather(1, targets.positions[..., None].expand(-1, -1, CONFIG.vocab_size))[used]
    label_probs = torch.full_like(logits, smoothing / (CONFIG.vocab_size - 1))
    label_probs.scatter_(1, targets.labels[used][:, None], 1 - smoothing)
    divergence = (torch.xlogy(label_probs, label_probs) - label_probs * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(losses, divergence)
    counted = replace(targets, counts=(1, 2, 2, 2))
    assert len(losses) == 7 and torch.equal(network(inputs, None, counted, smoothing), losses)
    guesses = network(inputs, None, targets, smoothing, with_guesses=True)
    assert torch.equal(guesses[:, 1].bool(), logits.argmax(1) == targets.labels[used])


@torch.no_grad()
def test_a_class_is_that_of_the_patches_and_images_do_not_see_each_other() -> None:
    network, inputs = tiny_task_network(ClassHead(5)), tiny_task_inputs(ClassHead(5))
    logits = network(inputs)
    alone = network(replace(inputs, images=inputs.images[2:3], image_mask=inputs.image_mask[2:3]))
    torch.testing.assert_close(alone, logits[2:3])
    means = network.encoder(inputs).images[:, 1:].mean(1)
    assert isinstance(network, ClassifyNetwork)
    torch.testing.assert_close(network.head(network.fc_norm(means)), logits)


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_images_of_768_px_are_taken_by_interpolated_positions(heads: TaskHead) -> None:
    network = tiny_task_network(heads, depth=1, patch_size=32)
    inputs = tiny_task_inputs(heads)
    images = inputs.images.repeat(1, 1, 24, 24)
    large = replace(inputs, images=images, image_mask=torch.zeros(len(images), 24**2, dtype=torch.bool))
    with torch.no_grad():
        logits = network(large)
    assert logits.shape == shape_of(heads) and logits.isfinite().all()


def test_without_a_final_norm_the_states_are_those_before_it() -> None:
    without, inputs = tiny_task_network(VqaHead(7)).encoder, tiny_task_inputs(VqaHead(7))
    with_norm = build_task_network(CONFIG, CaptionHead()).encoder
    with_norm.load_state_dict({**with_norm.state_dict(), **without.state_dict()})
    states = without(inputs)
    normed = torch.nn.functional.layer_norm(states.images, (CONFIG.dim,))
    torch.testing.assert_close(normed, with_norm(inputs).images, atol=2e-5, rtol=0)
