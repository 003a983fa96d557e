"""Everything that defines a pretraining run."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pydantic

from data_pipeline.config import DataConfig
from data_pipeline.step_dataset import SamplesPerStep
from model.config import MultiwayConfig


@dataclass(frozen=True)
class ObjectiveConfig:
    """Masked data modeling: how much is hidden, and how the four losses add up."""

    num_masked_patches: int = 75
    """Patches hidden in every image (BEiT: 75 of 196, which it calls 40 %)."""
    min_block_patches: int = 16
    """Smallest block of the block-wise image masks (BEiT: 16)."""
    text_mask_ratio: float = 0.15
    """Part of a text's tokens that is hidden (BEiT-3: 15 %)."""
    caption_mask_ratio: float = 0.5
    """Part of a caption's tokens that is hidden (BEiT-3: 50 %)."""
    mim_weight: float = 1.0
    """Weight of masked image modeling on images. No weight was published: our choice."""
    mlm_weight: float = 1.0
    """Weight of masked language modeling on texts. Our choice."""
    mvlm_image_weight: float = 1.0
    """Weight of the image part of masked vision-language modeling. Our choice."""
    mvlm_text_weight: float = 1.0
    """Weight of its text part. Our choice."""

    def __post_init__(self) -> None:
        for name in ("text_mask_ratio", "caption_mask_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in (0, 1)")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """In the order of model.masked_data_model.OBJECTIVES."""
        return self.mim_weight, self.mlm_weight, self.mvlm_image_weight, self.mvlm_text_weight


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warmup and cosine decay. The defaults are those of BEiT-3's Table 11."""

    peak_lr: float = 1e-3
    """Learning rate after warmup."""
    min_lr: float = 1e-5
    """Learning rate at the last step. Not published for BEiT-3: BEiT's value."""
    warmup_steps: int = 10_000
    """Steps of linear warmup."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.98
    """Decay of the second moment."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled decay; not of biases, norms, the class token and image positions."""
    gradient_clip: float = 3.0
    """Largest norm of the whole gradient; 0 switches clipping off."""


@dataclass(frozen=True)
class PretrainConfig:
    """One run: a function of this, the data and the step."""

    model: MultiwayConfig
    data: DataConfig
    visual_tokenizer: Path
    """File written by pretrain.train_visual_tokenizer; gives the targets of masked patches."""
    run_dir: Path
    """Log, checkpoints and resolved config. An existing run is continued."""
    num_steps: int
    """Optimizer steps of the whole run."""
    images_per_step: int
    """Image-only samples in the global batch."""
    pairs_per_step: int
    """Image-text pairs in the global batch."""
    texts_per_step: int
    """Text-only samples in the global batch."""
    initial_weights: Path | None = None
    """Folder to begin from, as pretrain.convert writes it from Microsoft's files or a run; None: random weights."""
    gradient_accumulation_steps: int = 1
    """Micro-steps a step; each holds its part of all three kinds."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of weights and activations in forward and backward; optimizer state is float32."""
    seed: int = 0
    """Of initial weights, sample order, augmentation, masks and stochastic depth."""
    deepspeed_config: Path = Path("ds_configs/zero3.json")
    """How memory and communication work; must not hold what this config owns."""
    save_every_steps: int = 1000
    """Optimizer steps between checkpoints; one more is saved at the end and at a stop."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept."""
    max_consecutive_skips: int = 10
    """The run stops after so many steps in a row with a gradient that is not finite."""
    log_sample_keys: bool = False
    """Write the sample keys of every step into the log: for tests and audits."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.save_every_steps < 1 or self.keep_checkpoints < 1:
            raise ValueError("num_steps, save_every_steps and keep_checkpoints must be at least 1")
        if self.samples_per_step.total < 1:
            raise ValueError(
                "images_per_step, pairs_per_step and texts_per_step are all 0: there is nothing to train on"
            )
        if self.objective.num_masked_patches > self.model.num_patches:
            raise ValueError(
                f"objective.num_masked_patches {self.objective.num_masked_patches} exceeds the "
                f"{self.model.num_patches} patches of an image"
            )
        longest = max(self.data.caption_length, self.data.text_length)
        if longest > self.model.max_text_length:
            raise ValueError(f"model.max_text_length {self.model.max_text_length} is below the data's length {longest}")

    @property
    def samples_per_step(self) -> SamplesPerStep:
        return SamplesPerStep(self.images_per_step, self.pairs_per_step, self.texts_per_step)


_ADAPTER = pydantic.TypeAdapter(PretrainConfig)

DEFINES_THE_RUN = ("model", "data", "objective", "optimizer", "num_steps", "images_per_step", "pairs_per_step",
                   "texts_per_step", "precision", "seed")  # fmt: skip
"""What a resumed run must share with the one it continues."""
FREE_DATA_FIELDS = ("images", "pairs", "texts", "text_tokenizer", "num_workers", "max_bad_samples",
                    "cache_folder", "cache_bytes")  # fmt: skip
"""Fields of `data` that may change: paths (their contents are compared) and what does not touch the batches."""


def config_to_json(config: PretrainConfig) -> str:
    return _ADAPTER.dump_json(config, indent=2).decode() + "\n"


def config_from_json(text: str) -> PretrainConfig:
    """Raises ValueError, naming the field, where the text is no such config."""
    return _ADAPTER.validate_json(text)


def changed_fields(old: PretrainConfig, new: PretrainConfig) -> list[str]:
    """What differs of that which defines a run, one 'name: old -> new' a field."""

    def flat(config: PretrainConfig) -> dict[str, object]:
        values: dict[str, object] = {}
        for name in DEFINES_THE_RUN:
            value = getattr(config, name)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                values |= {f"{name}.{key}": part for key, part in dataclasses.asdict(value).items()}
            else:
                values[name] = value
        return {name: value for name, value in values.items() if name not in free}

    free = {f"data.{name}" for name in FREE_DATA_FIELDS} | {"model.activation_checkpointing"}
    before, after = flat(old), flat(new)
    return [
        f"{name}: {json.dumps(before[name], default=str)} -> {json.dumps(after[name], default=str)}"
        for name in before
        if before[name] != after[name]
    ]
