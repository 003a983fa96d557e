"""Finetuning steps in real processes against plain torch on one, and what no step may change. CPU, seconds."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, log_softmax

from data_pipeline.samples.answers import ANSWERS_NAME, answer_lines
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import CaptionHead, VqaHead
from model.pretrained import save_network
from model.stacked_vectors import stacked_rows
from model.trained_parameters import is_trained
from pretrain.config.finetune import FinetuneConfig
from pretrain.formats.vocabulary import EXPORTED_NAME
from pretrain.jobs.contrast import Contrast
from pretrain.jobs.finetuning import Finetuning, check_labels, task_work
from pretrain.jobs.pretraining import Pretraining
from pretrain.jobs.task_micro_step import TaskMicroStep, make_task_micro_step
from pretrain.recipes import FINETUNE_RECIPES
from pretrain.recipes.contrast import contrast_laptop
from pretrain.recipes.small import laptop
from pretrain.recipes.small_finetuning import vqa_laptop
from tests.support import step_ranks
from tests.support.faults import few_now
from tests.support.mistakes import only_rank
from tests.support.task_data import task_config, write_scenes
from tests.support.task_networks import small_task_network
from tests.support.task_ranks import SMOOTHING, Case, config_of, global_batch, job_of, network_of
from tests.support.tiny_run import TinyData

TOLERANCE = 1e-5
results = partial(step_ranks.results, "tests.support.task_ranks")


def reference(case: Case) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of the step in plain torch, written from Microsoft's code: one process, the
    whole batch, whole logits."""
    config = config_of(replace(case, num_micro_steps=1))
    network, job = network_of(config), job_of(config)
    step = make_task_micro_step(config, global_batch(config, 0), job.text_tokenizer)
    logits = network(step.inputs, step.drop_path_scale)
    loss = caption_loss(logits, step, case.drop_worst_share) if case.task == "caption" else label_loss(logits, step)
    loss.backward()
    gradients, rows = dict[str, Tensor](), stacked_rows(network)
    for name, parameter in network.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        pieces = {row.name: gradient.narrow(0, row.start, row.length) for row in rows.get(name, ())}
        gradients |= pieces or {name: gradient}
    return loss.item(), gradients


def label_loss(logits: Tensor, step: TaskMicroStep) -> Tensor:
    assert step.targets is not None
    if step.task == "vqa":
        return binary_cross_entropy_with_logits(logits, step.targets) * step.targets.shape[1]
    return cross_entropy(logits, step.targets, label_smoothing=SMOOTHING if step.task == "classify" else 0.0)


def caption_loss(logits: Tensor, step: TaskMicroStep, drop_worst_share: float) -> Tensor:
    assert step.words is not None
    used = step.words.labels >= 0
    rows = torch.arange(len(logits))[:, None].expand_as(used)[used]
    chosen, labels = logits[rows, step.words.positions[used]], step.words.labels[used]
    smooth = torch.full_like(chosen, SMOOTHING / (chosen.shape[1] - 1)).scatter(1, labels[:, None], 1 - SMOOTHING)
    losses = kl_div(log_softmax(chosen, 1), smooth, reduction="none").sum(1)
    if drop_worst_share:
        losses = losses.topk(int(len(losses) * (1 - drop_worst_share)), largest=False).values
    return losses.mean()


def check(found: dict[str, Any], case: Case) -> None:
    loss, gradients = reference(case)
    record = found["record"]
    assert float(record["loss"]) == pytest.approx(loss, abs=TOLERANCE, rel=TOLERANCE)
    assert float(record["losses"][case.task]) == float(record["loss"])
    assert found["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        own = found["gradients"][name].view(gradient.shape)
        torch.testing.assert_close(own, gradient, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    assert sum(bool(gradient.any()) for gradient in gradients.values()) > 40


FEW = {
    "answers": Case("one step", "vqa", stage=3, num_micro_steps=2),
    "statements": Case("one step", "nlvr2", stage=2),
    "captions": Case("one step", "caption", stage=1, num_micro_steps=2),
    "captions without the worst words": Case("one step", "caption", stage=3, num_micro_steps=2, drop_worst_share=0.2),
    "classes": Case("one step", "classify", stage=3),
    "mixtures": Case("one step", "classify", stage=2, num_micro_steps=2, mixup=0.8),
}
STAYING = {f"ten steps of {task}": Case("ten steps", task) for task in ("vqa", "caption", "classify")}  # type: ignore[arg-type]
CASES = {**FEW, **STAYING}
NOW = {
    name: CASES[name]
    for name in ("answers", "statements", "captions without the worst words", "mixtures", "ten steps of vqa")
}
"""A case of every task; stages 2 and 3, and mixtures, which are classes too."""


@pytest.fixture(scope="module")
def results_now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of the cases of make test on two ranks, of one launch."""
    return results(2, NOW, tmp_path_factory.mktemp("finetuning"))


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
        f"{name}, {count} micro-steps, stage {stage}": replace(case, stage=stage, num_micro_steps=count)
        for name, case in FEW.items()
        for count in (1, 2)
        for stage in (1, 2, 3)
    }
    found = results(num_ranks, cases, tmp_path)
    for name, case in cases.items():
        check(found[name], case)


@pytest.mark.parametrize("name", few(STAYING))
def test_what_the_loss_does_not_use_keeps_its_value_to_the_bit(name: str, found: dict[str, Any]) -> None:
    """Ten steps with a weight decay of 0.5, of a network with vision-language experts in its last block."""
    config = config_of(STAYING[name])
    matrices = [each for each in [*found["kept"], *found["changed"]] if each.endswith("weight") and "norm" not in each]
    kept = {each for each in found["kept"] if each in matrices}
    assert kept == {each for each in matrices if not is_trained(each, config.model, config.heads)}
    assert kept and "encoder.vision_embed.mask_token" in found["kept"] and len(found["changed"]) > 40


def job_for(recipe: str, **changes: Any) -> Finetuning:
    return Finetuning(replace(FINETUNE_RECIPES[recipe](), **changes), torch.device("cpu"))


def test_the_learning_rate_falls_from_the_head_to_the_embeddings_and_the_head_has_a_factor_of_its_own() -> None:
    scale = job_for("vqa_base_480", layer_decay=0.5).lr_scale
    assert scale("head.0.weight") == scale("head.3.bias") == 20.0
    assert scale("pooler.dense.weight") == 1.0
    assert scale("encoder.blocks.11.attn.qkv.vision.weight") == 0.5
    assert scale("encoder.blocks.0.vectors") == 0.5**12
    assert scale("encoder.vision_embed.pos_embed") == scale("encoder.text_embed.word_embed.weight") == 0.5**13
    assert scale("encoder.vision_embed.mask_token") == scale("encoder.blocks.11.experts.language.fc1.weight") == 0.0
    assert job_for("classify_base").lr_scale("encoder.text_embed.word_embed.weight") == 0.0
    assert job_for("caption_base_480").lr_scale("mlm_head.weight") == 1.0


def test_a_list_of_another_length_than_the_head_is_refused_with_what_to_set() -> None:
    config = FINETUNE_RECIPES["easy_vqa"]()
    check_labels(config, 13)
    with pytest.raises(ValueError, match=r"answer2label.txt has 7 answers, num_classes is 13; set --num-classes 7, or"):
        check_labels(config, 7)
    check_labels(FINETUNE_RECIPES["nlvr2_base"](), 2)


@pytest.mark.parametrize(("is_reversed", "has_list"), [(False, True), (True, True), (True, False)])
def test_a_head_is_taken_if_its_answers_are_those_of_the_run(
    is_reversed: bool, has_list: bool, tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, words = LABELS["vqa"], tiny_data.folder / EXPORTED_NAME
    source = small_task_network(VqaHead(len(answers)), TextTokenizer(words))
    model = source.encoder.config
    save_network(source.state_dict(), model, tmp_path, heads=source.heads)
    shutil.copy(words, tmp_path)
    if has_list:
        (tmp_path / ANSWERS_NAME).write_text(answer_lines(answers[::-1] if is_reversed else answers))
    data = task_config(write_scenes(tmp_path / "vqa", "vqa"), words)
    start = {"initial_weights": tmp_path, "run_dir": tmp_path / "run"}
    job = job_for("vqa_laptop", model=model, data=data, num_classes=len(answers), task_samples_per_step=8, **start)
    with only_rank():
        job.prepare(rank=0, world_size=1)
        built = job.build_model(is_new=True)
    others = {"head.3.weight", "head.3.bias"} if is_reversed and has_list else set[str]()
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]) == (name not in others), name
    said = capsys.readouterr().out
    assert ("head.3.weight, head.3.bias" in said) == bool(others)
    assert ("no list of labels lies beside" in said) == (not has_list)


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [(Finetuning, vqa_laptop), (Contrast, contrast_laptop), (Pretraining, laptop)],
    ids=["finetune", "contrast", "train"],
)
def test_missing_initial_weights_are_named_before_missing_data(kind: Any, recipe: Any, tmp_path: Path) -> None:
    config = replace(recipe(), initial_weights=tmp_path / "nothing", run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"initial_weights .*nothing does not exist; give a run, .* or a file of"):
        kind(config, torch.device("cpu")).prepare(rank=0, world_size=1)


def work(config: FinetuneConfig, lengths: tuple[int, ...] = (10, 20)) -> tuple[int, int]:
    found = task_work(config, 2, lengths)
    return found.num_tokens, found.flops


def test_the_work_of_a_step_counts_every_image_and_every_word() -> None:
    vqa = FINETUNE_RECIPES["vqa_laptop"]()
    image = vqa.model.num_image_tokens
    assert work(vqa)[0] == 2 * image + 30
    nlvr2, caption = FINETUNE_RECIPES["nlvr2_laptop"](), FINETUNE_RECIPES["caption_laptop"]()
    assert work(nlvr2)[0] == 2 * work(vqa)[0] and work(nlvr2)[1] > 1.9 * work(vqa)[1]
    assert isinstance(caption.heads, CaptionHead)
    assert work(caption)[1] - work(replace(caption, mask_ratio=0.35))[1] == pytest.approx(
        6 * 10 * caption.model.dim * caption.model.vocab_size, rel=0.15
    )
    assert work(FINETUNE_RECIPES["classify_laptop"](), ())[0] == 2 * image
