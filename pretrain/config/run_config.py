"""The settings that every training run has; pretraining.py and visual_tokenizer.py add those of their kind."""

import dataclasses
import json
import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import pydantic
from annotated_types import Interval

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.samples.sample import Kind
from data_pipeline.settings.changes import MayChange, changes, fixed_fields
from data_pipeline.settings.ranges import (
    Count,
    CountOrZero,
    LearningRate,
    PartBelowOne,
    Seconds,
    Seed,
    Weight,
    check_ranges,
)
from model.config import (
    KEEP_EVERYTHING,
    Checkpointing,
    FlashAttentionChoice,
    Heads,
    KernelChoice,
    MultiwayConfig,
)
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.monitors import MonitorConfig

if TYPE_CHECKING:
    import torch

ConfigT = TypeVar("ConfigT", bound="RunConfig")
EncoderConfigT = TypeVar("EncoderConfigT", bound="EncoderRunConfig")
Schedule = Literal["cosine", "wsd", "constant"]
"""Schedules of the learning rate after its warmup."""
WeightKind = Literal["raw", "ema"]
"""Weights of a checkpoint: as trained, or their exponential moving average."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its schedule and the average of the weights. The defaults are those of BEiT-3's Table 11."""

    peak_lr: LearningRate = 1e-3
    """Learning rate after warmup."""
    min_lr: LearningRate = 1e-5
    """Learning rate at the last step, under cosine and wsd. Not published for BEiT-3: BEiT's value."""
    warmup_steps: CountOrZero = 10_000
    """Steps of linear warmup."""
    schedule: MayChange[Schedule] = "cosine"
    """Learning rate after warmup. cosine: falls until the last step. constant: stays at its peak. wsd: stays there and
    falls in the last decay_steps. A run under wsd or constant may be prolonged (docs/schedules.md)."""
    decay_steps: MayChange[CountOrZero] = 0
    """Steps of wsd's decay, the last of the run; a tenth to a fifth of num_steps are usual. 0 for other schedules."""
    beta1: PartBelowOne = 0.9
    """Decay of the first moment."""
    beta2: PartBelowOne = 0.98
    """Decay of the second moment."""
    eps: Annotated[float, Interval(gt=0, le=1)] = 1e-6
    """Added to the square root of the second moment."""
    weight_decay: Weight = 0.05
    """Decoupled weight decay; not applied to biases, norms, the class token and image positions."""
    gradient_clip: Weight = 3.0
    """Largest norm of the whole gradient; 0 disables clipping."""
    implementation: MayChange[Literal["auto", "torch", "deepspeed", "apex"]] = "auto"
    """Package whose AdamW is used; all compute the same. auto: the fastest installed (pretrain/engine/optimizer.py)."""
    ema_decay: MayChange[PartBelowOne] = 0.0
    """Decay of an exponential moving average of the weights, kept beside them in float32; 0 keeps none. A resumed run
    may switch it on, off or change it."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.schedule == "wsd" and self.decay_steps == 0:
            raise ValueError("schedule wsd needs decay_steps; give a tenth to a fifth of num_steps")
        if self.schedule != "wsd" and self.decay_steps > 0:
            raise ValueError(
                f"decay_steps {self.decay_steps} is for schedule wsd, not for {self.schedule}; set it to 0"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """One run: a function of this, the data and the step."""

    data: DataConfig | TaskDataConfig
    run_dir: MayChange[Path]
    """Folder of log, checkpoints and resolved config. An existing run is resumed."""
    num_steps: MayChange[Count]
    """Number of optimizer steps of the whole run. A resumed run may change it under the schedules wsd and constant."""
    gradient_accumulation_steps: MayChange[Count] = 1
    """Number of micro-steps per step; each has its part of every kind of data."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of matrix products in forward and backward, and in pretraining of weights; optimizer state is float32."""
    seed: Seed = 0
    """Seed of initial weights, sample order, augmentation and everything else that is random."""
    deterministic: MayChange[bool] = False
    """Take only deterministic algorithms, so that two runs on the same GPUs give the same bits. Slower; by how much has
    not been measured yet. On a CPU runs give the same bits in any case."""
    deepspeed_config: MayChange[Path] = Path("ds_configs/zero3.json")
    """DeepSpeed's settings of memory and communication; must not set what this config owns."""
    save_every_steps: MayChange[Count] = 1000
    """Number of steps between checkpoints; one more is saved at the end and at a stop."""
    keep_checkpoints: MayChange[Count] = 3
    """Number of newest checkpoints that are kept."""
    keep_every_steps: MayChange[CountOrZero] = 0
    """Keep the checkpoint of every Nth step as well; 0 keeps none. Takes effect at multiples of save_every_steps."""
    max_consecutive_skips: MayChange[CountOrZero] = 10
    """The run stops after this many consecutive skipped steps: loss or gradient not finite, or a spike."""
    spike_deviations: MayChange[Weight] = 0.0
    """A step is skipped if its loss is this many standard deviations above the mean of the last 128; 0 disables it.
    OLMo uses 6."""
    silent_rank_seconds: MayChange[Seconds] = 60.0
    """Time without a sign of life after which a rank counts as lost, and the run ends."""
    hang_seconds: MayChange[Seconds] = 1800.0
    """Time without progress of any rank after which the run ends, with a report of where each was. Must be longer than
    reading and verifying a checkpoint."""
    allow_data_change: MayChange[bool] = False
    """Resume although shards, tokenizers or teacher differ from those that the run was started with."""
    monitors: MayChange[MonitorConfig] = field(default_factory=MonitorConfig)
    log_sample_keys: MayChange[bool] = False
    """Log the sample keys of every step, for tests and audits."""
    evaluation: MayChange[EvaluationConfig] = field(default_factory=EvaluationConfig)

    KIND: ClassVar[str]
    """What the run is, in words; recorded in its checkpoints, by which they are recognized."""

    def __post_init__(self) -> None:
        check_ranges(self)
        evaluation = self.evaluation
        if self.is_evaluated and evaluation.best is not None and evaluation.every_steps % self.save_every_steps:
            raise ValueError(
                f"evaluation.best needs a checkpoint at every evaluation: evaluation.every_steps "
                f"{evaluation.every_steps} must be a multiple of save_every_steps {self.save_every_steps}; change one"
            )
        warmup, decay = self.optimizer.warmup_steps, self.optimizer.decay_steps
        if decay and warmup + decay > self.num_steps:
            raise ValueError(
                f"optimizer.warmup_steps {warmup} and optimizer.decay_steps {decay} do not fit into num_steps "
                f"{self.num_steps}; lower one of them"
            )

    @property
    def is_evaluated(self) -> bool:
        """Whether the run has held-out data and is evaluated on it."""
        return self.evaluation.is_on

    @property
    @abstractmethod
    def samples_per_step(self) -> SamplesPerStep:
        """The global batch."""

    @property
    def kinds(self) -> list[tuple[Kind, tuple[str, ...], int]]:
        """The kinds of samples, in their order in the global batch, each with its folders or URLs of shards and the
        number of samples of a step, perhaps 0."""
        data, per_step = self.data, self.samples_per_step
        assert isinstance(data, DataConfig)
        return [
            ("image", data.images, per_step.images),
            ("pair", data.pairs, per_step.pairs),
            ("text", data.texts, per_step.texts),
        ]

    def micro_batch(self, world_size: int) -> SamplesPerStep:
        """Return the samples of one rank's micro-step. Raises ValueError if the global batch does not divide."""
        micro_steps = self.gradient_accumulation_steps
        num_parts, total = world_size * micro_steps, self.samples_per_step
        for kind, count in vars(total).items():
            if count % num_parts:
                raise ValueError(
                    f"{kind}_per_step {count} must be a multiple of {world_size} rank{'s' * (world_size > 1)} x "
                    f"gradient_accumulation_steps {micro_steps}; change one of them"
                )
        return SamplesPerStep(**{kind: count // num_parts for kind, count in vars(total).items()})

    def resolved(self: ConfigT) -> ConfigT:
        """Return the config as it is saved, printed and compared: with values that follow from other fields."""
        return self

    def warnings(self) -> list[str]:
        """Return one line for each setting that is allowed but probably a mistake."""
        optimizer, found = self.optimizer, []
        if optimizer.warmup_steps >= self.num_steps:
            found.append(
                f"optimizer.warmup_steps {optimizer.warmup_steps} is not below num_steps {self.num_steps}: the "
                "whole run is warmup; lower it"
            )
        if optimizer.min_lr > optimizer.peak_lr:
            found.append(
                f"optimizer.min_lr {optimizer.min_lr:g} is above optimizer.peak_lr {optimizer.peak_lr:g}: the learning "
                "rate rises after warmup; lower it"
            )
        return found

    @property
    def dtype(self) -> "torch.dtype":
        """Type of matrix products."""
        import torch  # here: a config is built, printed and checked without the seconds that torch takes to import

        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


@dataclass(frozen=True, kw_only=True)
class EncoderRunConfig(RunConfig):
    """A run whose network has a MultiwayTransformer as its `encoder`; config/kinds.py lists the kinds."""

    model: MultiwayConfig
    initial_weights: MayChange[Path | None] = None
    """Weights to start from: a run (its newest checkpoint), a checkpoint folder, RUN/checkpoints/best, a folder that
    pretrain.convert --to safetensors wrote, or a file of Microsoft's. None: random weights."""
    kernels: MayChange[KernelChoice] = "auto"
    """Implementation of the operations around matrix products: auto (Triton on a GPU, plain torch elsewhere), reference
    (plain torch), compile (torch.compile), triton, or apex (NVIDIA's, if installed). A resumed run may change it."""
    flash_attention: MayChange[FlashAttentionChoice] = "auto"
    """Version of FlashAttention on a GPU: 2 (torch's), 3 (for H100 and H200, if its package is installed), or auto (3
    if it can run, else 2). A resumed run may change it."""
    activation_checkpointing: MayChange[Checkpointing] = KEEP_EVERYTHING
    """Activations of a block that are kept for backward. A resumed run may change it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernels == "compile" and self.activation_checkpointing.mode == "selective":
            raise ValueError(
                "activation_checkpointing.mode selective does not work with kernels compile; change one of them"
            )

    @property
    def heads(self) -> Heads | None:
        """Heads of the network as `model.networks.build_network` takes them; None: those of pretraining."""
        return None


def config_to_json(config: RunConfig) -> str:
    """Return a config as JSON, without passwords and signatures of its sources: checkpoints are passed on."""
    shown = dataclasses.replace(config.resolved(), data=config.data.public(), evaluation=config.evaluation.public())
    return pydantic.TypeAdapter(type(config)).dump_json(shown, indent=2).decode() + "\n"


def settings_of(config: RunConfig) -> dict[str, object]:
    """Return a config as `config_to_json` has it, for tables: nested fields by dotted names."""

    def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in values.items():
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return found

    return flat(json.loads(config_to_json(config)))


def config_from_json(kind: type[ConfigT], text: str) -> ConfigT:
    """Return the config that a JSON text holds. Raises ValueError, naming the field, if it is not one of that kind."""
    try:
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place, value = ".".join(map(str, first["loc"])), textwrap.shorten(repr(first["input"]), 60)
        raise ValueError(f"{place} {value}: {first['msg']}" if place else first["msg"]) from error


def changed_fields(old: RunConfig, new: RunConfig) -> list[str]:
    """Return one 'NAME was OLD, is now NEW' for each field that differs and that a resumed run may not change."""
    return changes(fixed_fields(old.resolved()), fixed_fields(new.resolved()))
