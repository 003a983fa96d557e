"""Recipes: valid, explained and planned."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from model.parameter_counts import count_by_part
from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.run_config import config_from_json, config_to_json
from pretrain.engine.engine import merged_deepspeed_config
from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.network_tables import parameter_table, use_table
from pretrain.recipes import CONTRAST_RECIPES, FINETUNE_RECIPES, RECIPES
from tests.support.launch import ROOT


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_documents_its_command_and_survives_its_file(name: str) -> None:
    config = RECIPES[name]()
    assert config_from_json(type(config), config_to_json(config)) == config.resolved()
    documentation = RECIPES[name].__doc__ or ""
    assert f" {name}\n" in documentation.split("Command:")[1]
    assert config.run_dir.name == name
    merged = merged_deepspeed_config(config, read_memory_config(config.deepspeed_config), world_size=2)
    assert merged["train_batch_size"] == config.samples_per_step.total
    for total in (config.images_per_step, config.pairs_per_step, config.texts_per_step):
        assert total % config.data.num_lanes == 0
    assert "total" in parameter_table(config) and "forward GFLOPs" in use_table(config)


@pytest.mark.parametrize("name", [name for name in CONTRAST_RECIPES if name.startswith("contrast")])
def test_a_contrastive_recipe_builds_and_survives_its_file(name: str) -> None:
    config = CONTRAST_RECIPES[name]()
    assert config_from_json(type(config), config_to_json(config)) == config.resolved()
    command = (CONTRAST_RECIPES[name].__doc__ or "").split("Command:")[1]
    assert re.search(rf" {name}\b", command) and config.run_dir.name == name
    merged = merged_deepspeed_config(config, read_memory_config(config.deepspeed_config), world_size=2)
    assert merged["train_batch_size"] == config.pairs_per_step and config.pairs_per_step % config.data.num_lanes == 0
    pretrained = {"contrast_demo": "demo", "contrast_laptop": "laptop"}.get(name, name.replace("contrast", "beit3"))
    source = RECIPES[pretrained]()
    assert replace(config.model, drop_path_rate=source.model.drop_path_rate) == source.model
    assert config.data.text_tokenizer == source.data.text_tokenizer
    if name in ("contrast_demo", "contrast_laptop"):
        assert config.initial_weights == source.run_dir and config.warnings() == []
    else:
        assert str(source.run_dir) in command


def test_the_contrastive_giant_has_the_schedule_of_appendix_a() -> None:
    giant = CONTRAST_RECIPES["contrast_giant"]()
    optimizer, epoch = giant.optimizer, 21_000_000 / 16_384
    assert (giant.pairs_per_step, giant.model.image_size, giant.model.drop_path_rate) == (16_384, 224, 0.3)
    assert giant.num_steps == pytest.approx(5 * epoch, rel=1e-3)
    assert optimizer.warmup_steps == pytest.approx(epoch, rel=1e-3)
    assert (optimizer.peak_lr, optimizer.weight_decay, giant.layer_decay) == (3e-5, 0.05, 0.95)
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)
    sizes = {name: CONTRAST_RECIPES[f"contrast_{name}"]() for name in ("base", "large")}
    assert [(config.optimizer.peak_lr, config.layer_decay) for config in sizes.values()] == [(2e-4, 0.65), (5e-5, 0.85)]
    assert all(config.num_steps == giant.num_steps for config in sizes.values())


def test_the_giant_has_table_11s_schedule() -> None:
    giant = RECIPES["beit3_giant"]()
    per_step, optimizer, model = giant.samples_per_step, giant.optimizer, giant.model
    assert (per_step.images, per_step.pairs, per_step.texts, giant.num_steps) == (2048, 2048, 2048, 1_000_000)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.peak_lr) == (0.9, 0.98, 1e-6, 1e-3)
    assert (optimizer.warmup_steps, optimizer.gradient_clip, optimizer.weight_decay) == (10_000, 3.0, 0.05)
    assert (model.drop_path_rate, model.num_vl_layers, model.patch_size, model.attention) == (0.1, 3, 14, "shared")


OF_TASKS: dict[str, Callable[[], FinetuneConfig | ContrastConfig]] = {
    **FINETUNE_RECIPES,
    **{name: recipe for name, recipe in CONTRAST_RECIPES.items() if name.startswith("retrieval")},
}


@pytest.mark.parametrize("name", OF_TASKS)
def test_a_recipe_of_a_task_builds_and_survives_its_file(name: str) -> None:
    recipe = OF_TASKS[name]
    config = recipe()
    assert config_from_json(type(config), config_to_json(config)) == config.resolved()
    command = (recipe.__doc__ or "").split("Command:")[1]
    assert re.search(rf" {name}\b", command) and config.run_dir.name == name
    merged = merged_deepspeed_config(config, read_memory_config(config.deepspeed_config), world_size=2)
    per_step = merged["train_batch_size"]
    assert per_step == config.samples_per_step.total and per_step % config.data.num_lanes == 0
    is_small = name.endswith("laptop") or name == "easy_vqa"
    assert is_small == (config.warnings() == []) == (config.initial_weights is not None)
    assert is_small or "--initial-weights" in command
    assert "total" in parameter_table(config) and "forward GFLOPs" in use_table(config)


PUBLISHED = {
    # samples per step, peak learning rate, layer decay, epochs, warmup epochs, stochastic depth, weight decay, pixels
    "classify_base": (1024, 7e-4, 0.65, 50, 5, 0.15, 0.05, 224),
    "classify_large": (1024, 2e-4, 0.8, 50, 5, 0.25, 0.05, 224),
    "vqa_base_480": (128, 3e-5, 1.0, 10, 1, 0.1, 0.01, 480),
    "vqa_large_480": (128, 2e-5, 1.0, 10, 1, 0.15, 0.01, 480),
    "vqa_giant_756": (128, 1e-5, 1.0, 10, 1, 0.4, 0.01, 756),
    "nlvr2_base": (256, 7e-4, 0.65, 20, 5, 0.2, 0.2, 224),
    "nlvr2_large": (256, 3e-4, 0.85, 20, 5, 0.2, 0.2, 224),
    "nlvr2_giant": (256, 1e-3, 0.8, 20, 5, 0.4, 0.05, 224),
    "caption_base_480": (256, 4e-5, 1.0, 10, 1, 0.1, 0.05, 480),
    "caption_large_480": (256, 8e-6, 1.0, 10, 1, 0.1, 0.05, 480),
    "nocaps_base_480": (256, 1e-5, 1.0, 10, 1, 0.1, 0.05, 480),
    "retrieval_coco_base_384": (3072, 2e-4, 0.65, 15, 3, 0.2, 0.05, 384),
    "retrieval_coco_large_384": (3072, 5e-5, 0.85, 15, 3, 0.2, 0.05, 384),
    "retrieval_coco_giant_420": (3072, 1e-5, 0.95, 15, 3, 0.3, 0.05, 420),
    "retrieval_flickr30k_base_384": (3072, 1e-4, 0.65, 20, 5, 0.2, 0.05, 384),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_of_a_task_has_the_published_hyperparameters(name: str) -> None:
    config = OF_TASKS[name]()
    per_step, peak_lr, layer_decay, epochs, warmup_epochs, drop_path_rate, weight_decay, image_size = PUBLISHED[name]
    optimizer, model = config.optimizer, config.model
    assert (config.samples_per_step.total, optimizer.peak_lr, config.layer_decay) == (per_step, peak_lr, layer_decay)
    assert optimizer.warmup_steps / config.num_steps == pytest.approx(warmup_epochs / epochs)
    assert (model.drop_path_rate, optimizer.weight_decay, model.image_size) == (
        drop_path_rate,
        weight_decay,
        image_size,
    )
    beta2 = 0.98 if name.startswith("vqa") else 0.999
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.min_lr) == (0.9, beta2, 1e-8, 1e-6)
    assert optimizer.gradient_clip == 0


def test_captions_and_answers_have_the_published_settings_of_their_task() -> None:
    caption, vqa = FINETUNE_RECIPES["caption_base_480"](), FINETUNE_RECIPES["vqa_base_480"]()
    assert (caption.mask_ratio, caption.label_smoothing, caption.data.text_length) == (0.7, 0.1, 32)
    assert (caption.drop_worst_share, caption.drop_worst_after) == (0.2, 12_000)
    assert not caption.drops_worst(11_999) and caption.drops_worst(12_000)
    assert (vqa.head_lr_factor, vqa.num_classes) == (20, 3129)
    assert (
        vqa.data.rand_augment and caption.data.rand_augment and not FINETUNE_RECIPES["nlvr2_base"]().data.rand_augment
    )
    classify = FINETUNE_RECIPES["classify_base"]()
    assert (classify.mixing.mixup, classify.mixing.cutmix) == (0.8, 1.0)
    assert classify.data.rand_augment and classify.data.color_jitter == 0
    giant = FINETUNE_RECIPES["caption_giant_392"]()
    assert (giant.num_steps, giant.optimizer.warmup_steps, giant.mask_ratio) == (16_000, 1600, 0.6)


def test_the_hidden_patches_are_as_published_and_scale_with_the_image_size() -> None:
    numbers = {name: (recipe().num_masked_patches, recipe().model.num_patches) for name, recipe in RECIPES.items()}
    small = {"demo": (14, 36), "laptop": (26, 64), "laptop_multilingual": (26, 64), "beit3_giant": (102, 256)}
    assert numbers == {name: small.get(name, (75, 196)) for name in RECIPES}
    laptop = RECIPES["laptop"]()
    larger = replace(laptop, model=replace(laptop.model, image_size=128))
    assert (larger.num_masked_patches, larger.model.num_patches) == (102, 256)
    given = replace(larger, objective=replace(larger.objective, num_masked_patches=26))
    assert given.num_masked_patches == 26


def test_recipes_train_on_whole_images_and_state_that_the_paper_does_not() -> None:
    for name, recipe in RECIPES.items():
        config = recipe()
        assert config.objective.whole_image_share == 0.5 and config.warnings() == [], name
    assert "whole" in (RECIPES["beit3_giant"].__doc__ or "")
    papers = replace(config, objective=replace(config.objective, whole_image_share=0.0))
    (warning,) = papers.warnings()
    nothing = replace(config, images_per_step=0, objective=replace(config.objective, whole_image_share=1.0))
    assert [text.split(":")[0] for text in nothing.warnings()] == [
        "objective.whole_image_share is 1 and images_per_step 0"
    ]
    assert "as in the paper" in warning and (ROOT / warning.split("see ")[1]).is_file()


def test_the_plan_prints_parts_and_total() -> None:
    lines = [line.split() for line in parameter_table(RECIPES["beit3_base"]()).splitlines()]
    assert ["total", "276,510,730", "277M"] in lines
    assert ["mim", "head", "6,299,648", "6M"] in lines


def test_the_documentation_lists_every_recipe_with_its_size() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    sizes = {
        name.strip(" `"): size.strip()
        for names, _, parameters, _ in (row for row in rows if len(row) == 4)
        for name, size in zip(names.split(","), parameters.split(","), strict=False)
    }
    for name in set(RECIPES) - {"demo", "laptop", "laptop_multilingual"}:
        total = sum(count_by_part(RECIPES[name]().model).values())
        assert sizes[name] == f"{total / 1e6:.0f}M", name
