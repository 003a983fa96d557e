"""The objective in names and numbers, without torch: the configuration reads it before anything heavy is imported."""

import math
from collections.abc import Sequence

OBJECTIVES = ("mim", "mlm", "mvlm_image", "mvlm_text")
"""Masked image modeling on images, masked language modeling on texts, and the two parts of masked vision-language
modeling on pairs; the order of every loss vector."""

IGNORE_INDEX = -100
"""Label of a position that is not predicted; torch's cross entropy has the same default."""


def num_masked(lengths: Sequence[int], ratio: float) -> tuple[int, ...]:
    """Return the number of masked tokens of texts with these numbers of tokens, padding excluded.

    round(n * ratio), at least 1 and at most n - 1: the leading <s> is never masked. The lengths include <s> and </s>.
    """
    return tuple(min(max(math.floor(n * ratio + 0.5), 1), max(n - 1, 0)) for n in lengths)
