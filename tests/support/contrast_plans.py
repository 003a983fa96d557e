"""A contrastive run that is small enough to compute and wide enough for its activations to matter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.config.contrast import ContrastConfig
from tests.support.launch import ROOT
from tests.support.memory_ranks import small_config


def small_contrast(**settings: Any) -> ContrastConfig:
    """Return a config on 8 pairs in float32, with the network of `small_config`, changed by settings."""
    pretrained = small_config(1, 1)
    config = ContrastConfig(
        model=pretrained.model,
        data=replace(pretrained.data, images=(), texts=()),
        run_dir=Path("runs/contrast"),
        num_steps=10,
        pairs_per_step=8,
        precision="float32",
        deepspeed_config=ROOT / "ds_configs" / "zero1.json",
    )
    return replace(config, **settings)
