"""The published parameter counts, and operations as torch counts them. Nothing is allocated."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import USES, Use
from model.flops import StepSize, forward_flops, training_flops
from model.multiway import MultiwayInputs, MultiwayTransformer
from model.parameter_counts import count_activated, count_by_part
from model.stochastic_depth import IGNORED
from pretrain.recipes import RECIPES
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets


@pytest.mark.parametrize(("recipe", "total"), [("beit3_base", 276_510_730), ("beit3_large", 746_709_514)])
def test_released_models_with_their_heads(recipe: str, total: int) -> None:
    assert sum(count_by_part(RECIPES[recipe]().model).values()) == total


def test_the_giant_is_that_of_the_papers_table_2() -> None:
    model = RECIPES["beit3_giant"]().model
    counts = count_by_part(model)
    millions = {part: round(count / 1e6) for part, count in counts.items()}
    assert millions["vision experts"] == millions["language experts"] == 692
    assert millions["vision-language experts"] == 52
    assert millions["attention"] == 317
    without_heads = sum(counts.values()) - counts["mim head"] - counts["mlm head"]
    assert without_heads == 1_848_317_568  # "1.9B"
    assert 0.95e9 < count_activated(model, "image") < 1.05e9  # "about 1B when used as a vision encoder"


@pytest.mark.parametrize(("recipe", "in_millions"), [("vlmo_base", 175), ("vlmo_base_plus", 167), ("vlmo_large", 562)])
def test_vlmos_encoders_have_vlmos_size(recipe: str, in_millions: int) -> None:
    """VLMo's published counts have 30,522 words and no masked-image head; ours differ by words and SubLN."""
    model = RECIPES[recipe]().model
    counts = count_by_part(model)
    without_words = sum(counts[part] for part in ("attention", "vision experts", "language experts"))
    without_words += counts["vision-language experts"] + counts["vision embedding"] + 30_522 * model.dim
    assert without_words / 1e6 == pytest.approx(in_millions, rel=0.02)


@pytest.mark.parametrize("num_vl_layers", [0, 1])
def test_activated_parameters_are_those_with_a_gradient(num_vl_layers: int) -> None:
    for use, counts in {"image": (2, 0, 0), "text": (0, 0, 2), "pair": (0, 2, 0)}.items():
        model, inputs = tiny_model(num_vl_layers=num_vl_layers), tiny_inputs(*counts)
        model(inputs, tiny_targets(inputs)).sum().backward()
        touched = sum(
            parameter.numel()
            for name, parameter in model.encoder.named_parameters()
            if parameter.grad is not None and bool((parameter.grad != 0).any())
        )
        assert touched == count_activated(model.encoder.config, use)  # type: ignore[arg-type]


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
        masked_words=int((targets.caption_labels != IGNORED).sum() + (targets.text_labels != IGNORED).sum()),
    )
    assert len(set(step.caption_lengths)) > 1 and step.masked_words < 3 * 3 + 4 * 2
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(inputs, targets).sum().backward()
    assert counter.get_total_flops() == training_flops(model.encoder.config, step)
    assert step.num_tokens(model.encoder.config) == inputs.layout().num_rows
