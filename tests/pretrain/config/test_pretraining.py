"""Fields of a config that may change when a run is resumed."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.settings.changes import fixed_fields
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.monitors import MonitorConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import RunConfig, changed_fields, config_from_json, config_to_json
from pretrain.recipes.small import demo, demo_visual_tokenizer, laptop

MAY_CHANGE = {
    "run_dir",
    "gradient_accumulation_steps",
    "deepspeed_config",
    "save_every_steps",
    "keep_checkpoints",
    "deterministic",
    "keep_every_steps",
    "max_consecutive_skips",
    "spike_deviations",
    "silent_rank_seconds",
    "hang_seconds",
    "allow_data_change",
    "log_sample_keys",
    "data.images",
    "data.pairs",
    "data.texts",
    "data.text_tokenizer",
    "data.classes",
    "data.class_names",
    "data.templates",
    "data.num_workers",
    "data.max_bad_samples",
    "data.cache_folder",
    "data.cache_bytes",
    "data.cache_for_group",
    "optimizer.implementation",
    *(f"evaluation.{field.name}" for field in fields(EvaluationConfig)),
    *(f"monitors.{field.name}" for field in fields(MonitorConfig)),
    "optimizer.ema_decay",
    # compared by config/schedule.py
    "num_steps",
    "optimizer.schedule",
    "optimizer.decay_steps",
}
MAY_CHANGE_IN_PRETRAINING = MAY_CHANGE | {
    "visual_tokenizer",
    "initial_weights",
    "flash_attention",
    "activation_checkpointing.mode",
    "activation_checkpointing.every",
    "kernels",
    "objective.image_mask_ratio",
}


def names_of(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Return dotted names: {'data': {'seed': 0}} -> {'data.seed'}."""
    nested = [
        names_of(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
        for name, value in values.items()
    ]
    return set().union(*nested)


@pytest.mark.parametrize(
    ("config", "expected"),
    [(demo(), MAY_CHANGE_IN_PRETRAINING), (demo_visual_tokenizer(), MAY_CHANGE | {"out", "teacher.weights"})],
    ids=["pretraining", "visual tokenizer"],
)
def test_a_resumed_run_may_change_these_fields_and_no_others(config: RunConfig, expected: set[str]) -> None:
    assert names_of(asdict(config)) - fixed_fields(config).keys() == expected


def test_paths_and_the_cache_may_change_and_settings_of_the_batches_may_not() -> None:
    config = demo()
    moved = replace(config.data, pairs=("elsewhere",), cache_folder=Path("/scratch"), cache_bytes=1, num_workers=7)
    assert changed_fields(config, replace(config, data=moved)) == []
    other = replace(config, data=replace(config.data, num_lanes=2), seed=5)
    assert changed_fields(config, other) == [
        "data.num_lanes was 4, is now 2",
        "seed was 0, is now 5",
    ]


def test_a_run_started_with_a_number_of_hidden_patches_resumes_with_the_equal_ratio() -> None:
    saved = json.loads(config_to_json(laptop()))
    assert saved["objective"]["num_masked_patches"] == 26
    saved["objective"].pop("image_mask_ratio")  # older configs have none
    before = config_from_json(PretrainConfig, json.dumps(saved))
    assert changed_fields(before, laptop()) == []
    larger = replace(laptop(), model=replace(laptop().model, image_size=128))
    assert changed_fields(before, larger) == [
        "model.image_size was 64, is now 128",
        "objective.num_masked_patches was 26, is now 102",
    ]


def test_settings_that_are_probably_a_mistake_are_reported() -> None:
    assert demo().warnings() == [] and laptop().warnings() == []
    tiny = demo()
    for config, sentence in (
        (
            replace(tiny, optimizer=replace(tiny.optimizer, warmup_steps=700)),
            "optimizer.warmup_steps 700 is not below",
        ),
        (
            replace(tiny, objective=replace(tiny.objective, image_mask_ratio=0.0)),
            "0 of the 36 patches of an image are",
        ),
        (
            replace(tiny, model=replace(tiny.model, image_size=16)),
            "objective.min_block_patches 3 exceeds the 2 hidden pa",
        ),
    ):
        (warning,) = config.warnings()
        assert warning.startswith(sentence)
    rising = replace(demo(), optimizer=replace(demo().optimizer, min_lr=1.0))
    assert rising.warnings() == [
        "optimizer.min_lr 1 is above optimizer.peak_lr 0.001: the learning rate rises after warmup; lower it"
    ]
