"""What defines a training run, whatever it trains; config.py and visual_tokenizer_config.py add theirs."""

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import pydantic
import torch

from data_pipeline.config import DataConfig
from data_pipeline.remote_files import public_url
from data_pipeline.step_dataset import SamplesPerStep


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
    implementation: Literal["auto", "torch", "deepspeed", "apex"] = "auto"
    """Whose AdamW it is; all compute the same. auto: the fastest that is there, see pretrain/optimizer.py."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """One run: a function of this, the data and the step."""

    data: DataConfig
    run_dir: Path
    """Log, checkpoints and resolved config. An existing run is continued."""
    num_steps: int
    """Optimizer steps of the whole run."""
    gradient_accumulation_steps: int = 1
    """Micro-steps a step; each holds its part of all kinds of data."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of matrix products in forward and backward, in pretraining of the weights too; optimizer state is float32."""
    seed: int = 0
    """Of initial weights, sample order, augmentation and everything else that is random."""
    deepspeed_config: Path = Path("ds_configs/zero3.json")
    """How memory and communication work; must not hold what this config owns."""
    save_every_steps: int = 1000
    """Optimizer steps between checkpoints; one more is saved at the end and at a stop."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept."""
    keep_every_steps: int = 0
    """Checkpoints of every so many steps are kept besides; 0: none. Takes effect at multiples of save_every_steps."""
    max_consecutive_skips: int = 10
    """The run stops after so many steps in a row that were not applied: loss or gradient not finite, or a spike."""
    spike_deviations: float = 0.0
    """A step whose loss lies so many standard deviations above the mean of the last 128 is not applied; 0: all are.
    OLMo takes 6."""
    silent_rank_seconds: float = 60.0
    """A rank that gives no sign of life for so long is lost, and the run ends."""
    hang_seconds: float = 1800.0
    """The run ends when no rank has moved on for so long, and says where each of them was. Longer than reading and
    verifying a checkpoint takes."""
    allow_data_change: bool = False
    """Go on although shards, tokenizers or teacher are not those that the run was begun with."""
    log_sample_keys: bool = False
    """Write the sample keys of every step into the log: for tests and audits."""

    KIND: ClassVar[str]
    """What is trained, in words."""
    FREE: ClassVar[frozenset[str]] = frozenset(
        """run_dir gradient_accumulation_steps deepspeed_config save_every_steps keep_checkpoints keep_every_steps
        max_consecutive_skips spike_deviations silent_rank_seconds hang_seconds allow_data_change log_sample_keys
        data.images data.pairs data.texts data.text_tokenizer data.num_workers data.max_bad_samples data.cache_folder
        data.cache_bytes data.cache_for_group optimizer.implementation""".split()
    )
    """Fields that a resumed run may change: what does not touch the batches, and paths, whose contents are compared."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "gradient_accumulation_steps", "save_every_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("silent_rank_seconds", "hang_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} must be more than 0")

    @property
    @abstractmethod
    def samples_per_step(self) -> SamplesPerStep:
        """The global batch."""

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


C = TypeVar("C", bound=RunConfig)


def config_to_json(config: RunConfig) -> str:
    """Without the passwords of its sources: it is kept in folders and files that are passed on."""
    data = config.data
    images, pairs, texts = (tuple(map(public_url, sources)) for sources in (data.images, data.pairs, data.texts))
    shown = dataclasses.replace(config, data=dataclasses.replace(data, images=images, pairs=pairs, texts=texts))
    return pydantic.TypeAdapter(type(config)).dump_json(shown, indent=2).decode() + "\n"


def config_from_json(kind: type[C], text: str) -> C:
    """Raises ValueError, naming the field, where the text is no config of that kind."""
    return pydantic.TypeAdapter(kind).validate_json(text)


def changed_fields(old: RunConfig, new: RunConfig) -> list[str]:
    """What differs of that which defines a run, one 'name: old -> new' a field."""
    before, after = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    return [
        f"{name}: {json.dumps(before[name], default=str)} -> {json.dumps(after[name], default=str)}"
        for name in before
        if name not in new.FREE and before[name] != after[name]
    ]


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    """{'data': {'seed': 0}} -> {'data.seed': 0}"""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
