"""The published parameter counts. Nothing is allocated for them."""

import pytest

from model.parameter_counts import count_activated, count_by_part
from model.stacked_vectors import stacked_rows
from pretrain.recipes import RECIPES
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets


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
    """VLMo's published counts have 30,522 words, no masked-image head and no sub-LayerNorm."""
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
        stacked, touched = stacked_rows(model.encoder), 0
        for name, parameter in model.encoder.named_parameters():
            assert parameter.grad is not None
            rows = [row.length for row in stacked[name]] if name in stacked else [parameter.numel()]
            touched += sum(part.numel() for part in parameter.grad.flatten().split(rows) if part.any())
        assert touched == count_activated(model.encoder.config, use)  # type: ignore[arg-type]
