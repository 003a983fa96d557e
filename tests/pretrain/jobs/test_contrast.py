"""Contrastive steps in real processes against plain torch on one, and what no step may change. CPU, seconds."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from model.config import DualHeads
from model.kernels.backend import choose_backend
from model.masked_data_model import masked_losses
from model.stacked_vectors import stacked_rows
from model.stochastic_depth import drop_path_scales
from pretrain.jobs.contrast import Contrast, layer_of
from pretrain.recipes import CONTRAST_RECIPES
from tests.support import step_ranks
from tests.support.contrast_ranks import (
    DROP_PATH_RATE,
    LOSS_WEIGHTS,
    MASKED_WEIGHT,
    NUM_PAIRS,
    NUM_UP,
    Case,
    global_batch,
    text_numbers,
)
from tests.support.faults import few_now
from tests.support.tiny import CONFIG, tiny_dual_encoder

TOLERANCE = 1e-5
results = partial(step_ranks.results, "tests.support.contrast_ranks")


def reference(case: Case) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the losses and all gradients of the step in plain torch: one process, whole logits, autograd."""
    model = tiny_dual_encoder(DualHeads(case.loss == "sigmoid", case.is_masked)).train()
    inputs, masked = global_batch(case.is_masked, step=0)
    ids = torch.arange(3 * NUM_PAIRS)
    states = model.encoder(inputs, drop_path_scales(0, ids[: 2 * NUM_PAIRS], CONFIG.depth, DROP_PATH_RATE))
    images = normalize(states.images[:, 0] @ model.vision_head.weight.T, dim=1)
    texts = normalize(states.texts[:, 0] @ model.language_head.weight.T, dim=1)
    logits = model.logit_scale.exp() * images @ texts.T
    right, numbers = torch.arange(NUM_PAIRS), text_numbers(case)
    is_ignored = (numbers[:, None] == numbers) & ~torch.eye(NUM_PAIRS, dtype=torch.bool)
    logits = logits.masked_fill(is_ignored, -torch.inf)
    losses = {}
    if model.logit_bias is not None:
        signs = 2 * torch.eye(NUM_PAIRS) - 1
        losses["contrastive"] = -logsigmoid(signs * (logits + model.logit_bias)).sum() / NUM_PAIRS
    else:
        losses["contrastive"] = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
    total = losses["contrastive"]
    if masked is not None:
        scales = drop_path_scales(0, ids[2 * NUM_PAIRS :], CONFIG.depth, DROP_PATH_RATE)
        hidden = model.encoder(masked.inputs, scales)
        sums = masked_losses(
            hidden, masked.targets, model.mim_head, model.mlm_head, choose_backend("auto", logits.device)
        )
        assert isinstance(sums, Tensor)
        means = sums / masked.targets.counts().clamp(min=1)
        total = total + MASKED_WEIGHT * (means * torch.tensor(LOSS_WEIGHTS)).sum()
        losses |= {"mvlm_image": means[2], "mvlm_text": means[3]}
    total.backward()
    gradients, rows = dict[str, Tensor](), stacked_rows(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        pieces = {row.name: parameter.grad.narrow(0, row.start, row.length) for row in rows.get(name, ())}
        gradients |= pieces or {name: parameter.grad}
    return {"loss": total.item()} | {name: loss.item() for name, loss in losses.items()}, gradients


def check(found: dict[str, Any], case: Case) -> None:
    losses, gradients = reference(case)
    record = found["record"]
    assert float(record["loss"]) == pytest.approx(losses.pop("loss"), abs=TOLERANCE, rel=TOLERANCE)
    for name, loss in losses.items():
        assert float(record["losses"][name]) == pytest.approx(loss, abs=TOLERANCE, rel=TOLERANCE), name
    assert found["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        own = found["gradients"][name].view(gradient.shape)
        torch.testing.assert_close(own, gradient, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    trained = [name for name, gradient in gradients.items() if gradient.any()]
    assert {"logit_scale", "vision_head.weight", "language_head.weight"} <= set(trained)


FEW = {
    "softmax": Case("one step", stage=3, num_micro_steps=2, num_texts=5),
    "sigmoid": Case("one step", stage=2, num_micro_steps=1, loss="sigmoid", num_texts=5),
    "masked": Case("one step", stage=3, num_micro_steps=2, loss="sigmoid", is_masked=True),
}
STAYING = {f"stage {stage}": Case("ten steps", stage=stage, num_micro_steps=2 - stage % 2) for stage in (1, 2, 3)}
AT_THE_BOUND = {
    f"bound {stage} {precision}": Case("scale at its bound", stage=stage, precision=precision)  # type: ignore[arg-type]
    for stage, precision in ((1, "bfloat16"), (2, "float32"), (3, "bfloat16"))
}


CASES = {**FEW, **STAYING, **AT_THE_BOUND}
NOW = {name: CASES[name] for name in (*FEW, "stage 3", "bound 3 bfloat16")}


@pytest.fixture(scope="module")
def results_now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of the cases of make test on two ranks, of one launch."""
    return results(2, NOW, tmp_path_factory.mktemp("contrast"))


@pytest.fixture(scope="module")
def results_of_others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of the cases of make test-slow, likewise."""
    return results(
        2, {name: case for name, case in CASES.items() if name not in NOW}, tmp_path_factory.mktemp("others")
    )


@pytest.fixture
def found(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the result of a test's case."""
    results_by_name: dict[str, Any] = request.getfixturevalue("results_now" if name in NOW else "results_of_others")
    return dict(results_by_name[name])


def few(cases: Mapping[str, Case]) -> list[Any]:
    """Return pytest parameters: names of cases, those that are not in NOW marked slow."""
    return few_now([name for name in cases if name in NOW], [name for name in cases if name not in NOW])


@pytest.mark.parametrize("name", few(FEW))
def test_losses_and_all_gradients_are_those_of_plain_torch(name: str, found: dict[str, Any]) -> None:
    check(found, FEW[name])


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_losses_and_all_gradients_depend_on_no_topology(num_ranks: int, tmp_path: Path) -> None:
    cases = {
        f"{loss}, {count} micro-steps, stage {stage}, {'masked' if is_masked else 'alone'}": Case(
            "one step", stage, count, loss, is_masked
        )
        for loss in ("softmax", "sigmoid")
        for count in (1, 2, 4)
        for stage in (1, 2, 3)
        for is_masked in (False, True)
    }
    cases |= {
        f"{loss}, {count} micro-steps, equal texts": Case("one step", 3, count, loss, num_texts=5)
        for loss in ("softmax", "sigmoid")
        for count in (1, 2, 4)
    }
    found = results(num_ranks, cases, tmp_path)
    for name, case in cases.items():
        check(found[name], case)


@pytest.mark.parametrize("name", few(STAYING))
def test_what_the_loss_does_not_use_keeps_its_value_to_the_bit(name: str, found: dict[str, Any]) -> None:
    """Ten steps with a weight decay of 0.5: vision-language experts and the mask token stay, all else is trained."""
    expected = {name for name in tiny_dual_encoder().state_dict() if "vision_language" in name}
    assert len(expected) == 8  # two matrices, three norms and biases of one block
    assert set(found["kept"]) == expected | {"encoder.vision_embed.mask_token"}
    assert len(found["changed"]) > 80


@pytest.mark.parametrize("name", few(AT_THE_BOUND))
def test_the_scale_stops_at_its_bound_and_comes_back_at_once(name: str, found: dict[str, Any]) -> None:
    weights, used = zip(*found["found"], strict=True)
    highest = torch.tensor(found["bound"]).item()  # in float32
    assert max(weights) == weights[NUM_UP - 1] == weights[NUM_UP - 2] == highest
    assert max(used) == (highest if "float32" in name else torch.tensor(highest).bfloat16().item()) <= highest
    assert highest - 2 < weights[NUM_UP] < highest - 0.5  # the first gradient that asks for less is followed


def test_the_learning_rate_falls_from_heads_to_embeddings_and_is_zero_for_what_is_not_trained() -> None:
    config = replace(CONTRAST_RECIPES["contrast_giant"](), layer_decay=0.5)
    scale = Contrast(config, torch.device("cpu")).lr_scale
    depth = config.model.depth
    assert scale("vision_head.weight") == scale("vectors") == scale("encoder.norm.vectors") == 1.0
    assert scale(f"encoder.blocks.{depth - 1}.vectors") == 0.5
    assert scale("encoder.blocks.0.attn.qkv.shared.weight") == 0.5**depth
    for name in ("vision_embed.cls_token", "vision_embed.patch_embed.bias", "text_embed.word_embed.weight"):
        assert scale(f"encoder.{name}") == 0.5 ** (depth + 1)
    assert scale("encoder.vision_embed.mask_token") == 0.0
    assert scale("encoder.blocks.39.experts.vision_language.fc1.weight") == 0.0
    with_factor = Contrast(replace(config, head_lr_factor=20.0), torch.device("cpu")).lr_scale
    assert with_factor("vision_head.weight") == with_factor("language_head.weight") == 20.0
    assert with_factor("logit_scale") == with_factor("encoder.norm.vectors") == 1.0  # no projection
    masked = replace(config, masked_data_weight=1.0, visual_tokenizer=Path("data/visual_tokenizer.pt"))
    assert Contrast(masked, torch.device("cpu")).lr_scale("encoder.vision_embed.mask_token") == 0.5 ** (depth + 1)
    assert layer_of("encoder.text_embed.pos_embed", 12) == 0 and layer_of("encoder.blocks.11.vectors", 12) == 12
