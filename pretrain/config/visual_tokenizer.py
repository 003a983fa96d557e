"""Settings of the training of a visual tokenizer."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Interval

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.settings.changes import MayChange
from data_pipeline.settings.ranges import Deviation, PartBelowOne, Side, check_ranges
from model.config import VisualTokenizerConfig
from pretrain.config.run_config import OptimizerConfig, RunConfig


@dataclass(frozen=True)
class TeacherConfig:
    """Teacher whose features the tokenizer reconstructs."""

    name: str = "pixels"
    """pixels: pixels of each patch; needs no weights. timm:MODEL, such as timm:vit_base_patch16_224.dino: patch tokens
    after the final norm, or a convnet's last map. open_clip:MODEL, such as open_clip:ViT-B-16-quickgelu: projected
    patch tokens; OpenAI's weights need a model with -quickgelu. torchscript: a saved module, pixels in [0, 1] to
    (B, G * G, E) or a map (B, E, G, G); it is code, which runs when it is loaded: use files from sources that you
    trust. package.module.function, also code: called with `weights`, returns such a function or module."""
    weights: MayChange[Path | None] = None
    """Local file of the teacher: safetensors or a state dict of torch.save, read as data. OpenAI's own CLIP archives
    are TorchScript, which is code: use open_clip's safetensors, or save their state dict. Nothing is downloaded."""
    image_size: Side | None = None
    """Side of the teacher's view in pixels, if its patches differ from the tokenizer's. None: the tokenizer's."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class CodebookConfig:
    """Settings of the codebook."""

    decay: PartBelowOne = 0.99
    """Decay of the moving averages (BEiT v2: 0.99)."""
    kmeans_start: bool = True
    """Initialize codes by k-means over the features of the first step (BEiT v2); off: by random directions."""
    revival_threshold: PartBelowOne = 0.1
    """A code that gets less than this part of an even share of the features is replaced by a feature of the step. Our
    addition; 0 disables it."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class VisualTokenizerRun(RunConfig):
    """VQ-KD training on the image shards of `data`: a function of this, the data and the step."""

    data: DataConfig
    model: VisualTokenizerConfig
    out: MayChange[Path]
    """File to write at every checkpoint, for the visual_tokenizer of a pretraining run."""
    images_per_step: Annotated[int, Interval(ge=1, le=10_000_000)]
    """Images in the global batch."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    init_std: Deviation = 0.02
    """Initial standard deviation of matrices."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            peak_lr=2e-4, warmup_steps=1000, beta2=0.99, eps=1e-8, weight_decay=1e-4, gradient_clip=0.0
        )
    )

    KIND: ClassVar[str] = "a visual tokenizer's training"

    @property
    def samples_per_step(self) -> SamplesPerStep:
        return SamplesPerStep(self.images_per_step, 0, 0)
