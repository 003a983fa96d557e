"""The settings of mixup and cutmix, for finetuning on classes."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from data_pipeline.settings.ranges import Part, check_ranges

Alpha = Annotated[float, Interval(ge=0, le=1000)]
"""Parameter of a symmetric beta distribution; 0 stands for never."""


@dataclass(frozen=True)
class MixingConfig:
    """Mixtures of two training images and of their classes. The published recipes have mixup 0.8 and cutmix 1."""

    mixup: Alpha = 0.0
    """Parameter of the beta distribution of the share of an image in a weighted mean of two; 0: no mixup."""
    cutmix: Alpha = 0.0
    """Parameter of the beta distribution of the share of an image that a box of another leaves; 0: no cutmix."""
    probability: Part = 1.0
    """Probability that a pair of images is mixed."""
    cutmix_share: Part = 0.5
    """Probability of cutmix instead of mixup if there are both."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_on(self) -> bool:
        """Whether any images are mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def check_batch(self, samples_per_step: int, num_parts: int) -> None:
        """Raise ValueError if a step's samples do not divide into whole pairs; num_parts: ranks times micro-steps."""
        if self.is_on and samples_per_step % (2 * num_parts):
            raise ValueError(
                f"{samples_per_step} samples per step in {num_parts} parts (ranks times gradient_accumulation_steps) "
                f"leave images without a partner to mix with; give a multiple of {2 * num_parts}, or --mixing.mixup 0 "
                "--mixing.cutmix 0"
            )
