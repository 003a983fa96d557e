"""Operations by formula, and as torch counts them. CPU, seconds."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import USES, Use
from model.flops import StepSize, forward_flops, training_flops
from model.multiway import MultiwayInputs, MultiwayTransformer
from model.objective import IGNORE_INDEX
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets


@pytest.mark.parametrize("use", USES)
def test_operations_are_those_that_torch_counts(use: Use) -> None:
    num_text_tokens = 9
    counts = {"image": (1, 0, 0), "text": (0, 0, 1), "pair": (0, 1, 0)}[use]
    inputs = tiny_inputs(*counts)
    inputs = MultiwayInputs(
        images=inputs.images.to("meta"),
        image_mask=inputs.image_mask.to("meta"),
        caption_ids=torch.zeros(counts[1], num_text_tokens, dtype=torch.int64, device="meta"),
        caption_padding=torch.zeros(counts[1], num_text_tokens, dtype=torch.bool, device="meta"),
        text_ids=torch.zeros(counts[2], num_text_tokens, dtype=torch.int64, device="meta"),
        text_padding=torch.zeros(counts[2], num_text_tokens, dtype=torch.bool, device="meta"),
        caption_lengths=(num_text_tokens,) * counts[1],
        text_lengths=(num_text_tokens,) * counts[2],
    )
    with torch.device("meta"), torch.no_grad():
        model = MultiwayTransformer(CONFIG)
        with FlopCounterMode(display=False) as counter:
            model(inputs)
    assert counter.get_total_flops() == forward_flops(CONFIG, use, num_text_tokens)


def test_operations_of_a_training_step_are_those_that_torch_counts() -> None:
    model, inputs = tiny_model(attention="decoupled"), tiny_inputs(2, 3, 4)
    targets = tiny_targets(inputs)
    step = StepSize(
        num_images=2,
        caption_lengths=(~inputs.caption_padding).sum(1).tolist(),
        text_lengths=(~inputs.text_padding).sum(1).tolist(),
        masked_patches=5,
        masked_words=int((targets.caption_labels != IGNORE_INDEX).sum() + (targets.text_labels != IGNORE_INDEX).sum()),
    )
    assert len(set(step.caption_lengths)) > 1 and step.masked_words < 3 * 3 + 4 * 2
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(inputs, targets).sum().backward()
    assert counter.get_total_flops() == training_flops(model.encoder.config, step)
    assert step.num_tokens(model.encoder.config) == inputs.layout().num_rows
