"""The settings of the contrastive stage, which turns a pretrained network into a dual encoder."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.settings.changes import MayChange
from data_pipeline.settings.ranges import SampleCount, Weight
from model.config import DualHeads
from pretrain.config.pretraining import ObjectiveConfig, PretrainConfig
from pretrain.config.run_config import EncoderRunConfig


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(EncoderRunConfig):
    """One contrastive run on image-text pairs: a function of this, the data and the step."""

    data: DataConfig
    pairs_per_step: Annotated[int, Interval(ge=2, le=10_000_000)]
    """Number of image-text pairs in the global batch, over all ranks and micro-steps. The loss compares each image with
    all texts of it and each text with all images, so another number is another objective, not only another batch."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: symmetric cross-entropy over the global batch, as in CLIP and BEiT-3. sigmoid: SigLIP's, one yes or no
    for each image and text."""
    equal_texts: Literal["negatives", "ignored"] = "negatives"
    """Whether texts of the global batch that equal an image's own count as wrong for it, as in CLIP, or are left out of
    the loss. Labelled images have equal texts if they are of the same class, in whichever template."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each block to the one below it; embeddings come below the first, heads above the
    last. 1: the same for all."""
    head_lr_factor: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """Factor of the learning rate of the two projections, vision_head and language_head, which are new if the run
    starts from masked data modeling: a pretrained encoder wants a lower learning rate than they do. 1: the same."""
    masked_data_weight: Weight = 0.0
    """Weight of masked data modeling on the same pairs, beside the contrastive loss, whose weight is 1. 0: without."""
    images_per_step: SampleCount = 0
    """Number of image-only samples in the global batch, for masked data modeling only."""
    texts_per_step: SampleCount = 0
    """Number of text-only samples in the global batch, for masked data modeling only."""
    visual_tokenizer: MayChange[Path | None] = None
    """File of the visual tokenizer, as for pretraining; for masked data modeling only."""
    visual_tokenizer_precision: Literal["float32", "float16", "bfloat16"] = "float16"
    """Type of the visual tokenizer's matrix products on a GPU if precision is bfloat16."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Masked data modeling, if masked_data_weight is above 0."""

    KIND: ClassVar[str] = "contrastive training"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.text_tokenizer is None:
            raise ValueError("data.text_tokenizer is needed for the texts of pairs; give a SentencePiece model")
        if self.data.caption_length > self.model.max_text_length:
            raise ValueError(
                f"model.max_text_length {self.model.max_text_length} is below data.caption_length "
                f"{self.data.caption_length}; lower the latter"
            )
        for name in ("images_per_step", "texts_per_step"):
            if getattr(self, name) and not self.masked_data_weight:
                raise ValueError(
                    f"{name} {getattr(self, name)} is for masked data modeling, which masked_data_weight 0 leaves out; "
                    "set one of them"
                )
        if self.masked_data_weight and self.visual_tokenizer is None:
            raise ValueError("masked_data_weight is above 0, which needs the visual_tokenizer of pretraining; give it")
        _ = self.masked_data  # its own checks

    @property
    def heads(self) -> DualHeads:
        """The parameters of the network that not every dual encoder has."""
        return DualHeads(logit_bias=self.loss == "sigmoid", masked_data=self.masked_data_weight > 0)

    @property
    def masked_data(self) -> PretrainConfig | None:
        """Masked data modeling as a pretraining run on the same samples would do it; None without."""
        if not self.masked_data_weight:
            return None
        assert self.visual_tokenizer is not None
        return PretrainConfig(
            model=self.model,
            data=self.data,
            run_dir=self.run_dir,
            num_steps=self.num_steps,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            optimizer=self.optimizer,
            precision=self.precision,
            seed=self.seed,
            visual_tokenizer=self.visual_tokenizer,
            visual_tokenizer_precision=self.visual_tokenizer_precision,
            images_per_step=self.images_per_step,
            pairs_per_step=self.pairs_per_step,
            texts_per_step=self.texts_per_step,
            kernels=self.kernels,
            flash_attention=self.flash_attention,
            activation_checkpointing=self.activation_checkpointing,
            objective=self.objective,
        )

    def resolved(self) -> "ContrastConfig":
        masked = self.masked_data
        return self if masked is None else replace(self, objective=masked.resolved().objective)

    def warnings(self) -> list[str]:
        found, masked = super().warnings(), self.masked_data
        if self.initial_weights is None:
            found.append(
                "initial_weights is not given: the dual encoder starts from random weights; to start from a pretrained "
                "network, give --initial-weights SOURCE"
            )
        if masked is not None:
            found += [warning for warning in masked.warnings() if warning not in found]
        return found

    @property
    def samples_per_step(self) -> SamplesPerStep:
        return SamplesPerStep(self.images_per_step, self.pairs_per_step, self.texts_per_step)
