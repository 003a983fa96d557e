"""The settings of a pretraining run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.settings.changes import MayChange
from data_pipeline.settings.ranges import Part, PartBetween, SampleCount, SizeOrZero, Weight, check_ranges
from model.flops import StepSize
from model.objective import OBJECTIVES, num_masked
from pretrain.config.run_config import EncoderRunConfig

BlockSize = Annotated[int, Interval(ge=1, le=65_536)]
"""The largest that fits: the kernel multiplies it by 4096 in 32 bits."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Masked data modeling: the shares that are masked, and the weights of the four losses."""

    image_mask_ratio: MayChange[Part] = 75 / 196
    """Share of an image's patches that is masked (BEiT: 75 of 196, which it calls 40 %), rounded to whole patches. A
    resumed run may change it if that gives the same number of patches."""
    num_masked_patches: SizeOrZero | None = None
    """Number of masked patches per image, whatever its size. None: it follows from image_mask_ratio."""
    whole_image_share: Part = 0.0
    """Share of the pairs whose image is not masked, so that only words are predicted; drawn per pair. The paper has 0;
    a network that never saw a whole image may be unable to use one (docs/whole_images.md)."""
    min_block_patches: BlockSize = 16
    """Smallest block of the block-wise image masks (BEiT: 16)."""
    text_mask_ratio: PartBetween = 0.15
    """Share of a text's tokens that is masked (BEiT-3: 15 %)."""
    caption_mask_ratio: PartBetween = 0.5
    """Share of a caption's tokens that is masked (BEiT-3: 50 %)."""
    mim_weight: Weight = 1.0
    """Weight of masked image modeling on images. BEiT-3 publishes no weights: our choice."""
    mlm_weight: Weight = 1.0
    """Weight of masked language modeling on texts. Our choice."""
    mvlm_image_weight: Weight = 1.0
    """Weight of the image part of masked vision-language modeling. The loss is a mean over masked patches: the fewer
    pairs have some, the more each patch weighs. Our choice."""
    mvlm_text_weight: Weight = 1.0
    """Weight of the text part of masked vision-language modeling. Our choice."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The weights in the order of model.objective.OBJECTIVES."""
        return self.mim_weight, self.mlm_weight, self.mvlm_image_weight, self.mvlm_text_weight


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(EncoderRunConfig):
    """One pretraining run: a function of this, the data and the step."""

    data: DataConfig
    visual_tokenizer: MayChange[Path]
    """File of pretrain.train_visual_tokenizer or of BEiT v2 (vqkd_*.pth), whose codes masked patches are to predict."""
    images_per_step: SampleCount
    """Number of image-only samples in the global batch."""
    pairs_per_step: SampleCount
    """Number of image-text pairs in the global batch."""
    texts_per_step: SampleCount
    """Number of text-only samples in the global batch."""
    visual_tokenizer_precision: Literal["float32", "float16", "bfloat16"] = "float16"
    """Type of the visual tokenizer's matrix products on a GPU if precision is bfloat16. float16 is as fast as bfloat16
    and gives the codes of float32 for more patches; BEiT v2 used it."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    KIND: ClassVar[str] = "pretraining"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.text_tokenizer is None:
            raise ValueError("data.text_tokenizer is needed for words and their masks; give a SentencePiece model")
        if self.samples_per_step.total < 1:
            raise ValueError(
                "images_per_step, pairs_per_step and texts_per_step are all 0: there is nothing to train on"
            )
        if self.num_masked_patches > self.model.num_patches:
            raise ValueError(
                f"objective.num_masked_patches {self.num_masked_patches} exceeds the {self.model.num_patches} patches "
                "of an image; lower it, or leave it out for objective.image_mask_ratio"
            )
        longest = max(self.data.caption_length, self.data.text_length)
        if longest > self.model.max_text_length:
            raise ValueError(f"model.max_text_length {self.model.max_text_length} is below the data's length {longest}")

    @property
    def num_masked_patches(self) -> int:
        """The number of masked patches in every image that is not left whole."""
        given = self.objective.num_masked_patches
        return round(self.objective.image_mask_ratio * self.model.num_patches) if given is None else given

    def resolved(self) -> "PretrainConfig":
        ratio = self.num_masked_patches / self.model.num_patches
        return replace(
            self,
            objective=replace(self.objective, num_masked_patches=self.num_masked_patches, image_mask_ratio=ratio),
        )

    def warnings(self) -> list[str]:
        found, objective, hidden = super().warnings(), self.objective, self.num_masked_patches
        if not self.images_per_step + self.pairs_per_step:
            return found
        if hidden in (0, self.model.num_patches):
            found.append(f"{hidden} of the {self.model.num_patches} patches of an image are hidden; see objective")
        elif self.pairs_per_step and not objective.whole_image_share:
            found.append(
                "objective.whole_image_share is 0, as in the paper: a network that is never trained on whole images "
                "may be unable to use them; set it to 0.5, or see docs/whole_images.md"
            )
        elif objective.whole_image_share == 1 and not self.images_per_step:
            found.append(
                "objective.whole_image_share is 1 and images_per_step 0: no patch of any image is hidden, and the head "
                "for visual tokens learns nothing; lower the share"
            )
        if 0 < hidden < min(objective.min_block_patches, self.model.num_patches):
            found.append(
                f"objective.min_block_patches {objective.min_block_patches} exceeds the {hidden} hidden patches of an "
                "image: hardly a block fits, and patches are hidden one by one; lower it"
            )
        return found

    @property
    def objectives(self) -> tuple[str, ...]:
        """Those of model.objective.OBJECTIVES that the run has samples for."""
        num_masked_pairs = self.pairs_per_step if self.objective.whole_image_share < 1 else 0
        counts = (self.images_per_step, self.texts_per_step, num_masked_pairs, self.pairs_per_step)
        return tuple(name for name, count in zip(OBJECTIVES, counts, strict=True) if count)

    def step_size(self, num_images: int, caption_lengths: Sequence[int], text_lengths: Sequence[int]) -> StepSize:
        """Return the size of a step; num_images: image-only samples; lengths in tokens, of one caption per pair."""
        objective = self.objective
        captions = num_masked(caption_lengths, objective.caption_mask_ratio)
        texts = num_masked(text_lengths, objective.text_mask_ratio)
        return StepSize(
            num_images=num_images,
            caption_lengths=caption_lengths,
            text_lengths=text_lengths,
            masked_patches=self.num_masked_patches,
            masked_words=sum(captions) + sum(texts),
        )

    @property
    def largest_step(self) -> StepSize:
        """The global batch with captions and texts of their greatest length."""
        captions = (self.data.caption_length,) * self.pairs_per_step
        return self.step_size(self.images_per_step, captions, (self.data.text_length,) * self.texts_per_step)

    @property
    def samples_per_step(self) -> SamplesPerStep:
        return SamplesPerStep(self.images_per_step, self.pairs_per_step, self.texts_per_step)
