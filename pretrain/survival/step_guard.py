"""Which steps no rank applies: a loss or gradient that is not finite, and by a setting a spike of the loss."""

import math
import statistics
from collections import deque
from typing import Any

from torch import Tensor

NUM_RECENT = 128
"""Losses whose mean and spread a spike is measured by, as in OLMo's optimizer that skips steps."""
MIN_RECENT = 32
"""Fewer say nothing about the spread."""
MAX_SKIPPED_SHARE = 0.2
"""A run of which a larger share of the steps was skipped has all its steps, but ends with a code of its own."""


class StepGuard:
    """The losses of the steps before, and what was skipped. The same on every rank, and saved with a checkpoint."""

    def __init__(self, spike_deviations: float, max_consecutive_skips: int, saved: dict[str, Any] | None = None):
        """spike_deviations: standard deviations above the mean that make a spike; 0: there are none."""
        self.spike_deviations = spike_deviations
        self.max_consecutive_skips = max_consecutive_skips
        saved = saved or {"recent_losses": [], "num_skipped_steps": 0, "num_consecutive_skips": 0}
        self.recent_losses = deque[float](saved["recent_losses"], NUM_RECENT)
        self.num_skipped_steps: int = saved["num_skipped_steps"]
        self.num_consecutive_skips: int = saved["num_consecutive_skips"]

    def factor(self, loss: Tensor) -> Tensor:
        """Of the last loss before its backward: 1, or NaN where the step is not to be applied.

        DeepSpeed applies no gradient that is not finite, on any rank. loss: of the global batch, on every rank alike.
        """
        if self.spike_deviations and self.is_spike(float(loss)):
            return loss * math.nan
        return loss * 0 + 1

    def is_spike(self, loss: float) -> bool:
        if not self.spike_deviations or len(self.recent_losses) < MIN_RECENT:
            return False
        mean, deviation = statistics.fmean(self.recent_losses), statistics.pstdev(self.recent_losses)
        return loss > mean + self.spike_deviations * deviation

    def count(self, skipped: bool) -> str:
        """After a step. Returns why the run must end, where too many in a row were skipped."""
        if not skipped:
            self.num_consecutive_skips = 0
            return ""
        self.num_skipped_steps += 1
        self.num_consecutive_skips += 1
        if self.num_consecutive_skips < self.max_consecutive_skips:
            return ""
        return (
            f"{self.num_consecutive_skips} steps in a row had no finite loss and gradient, or a spike of the loss; "
            "begin anew with a lower learning rate, or go on with --spike-deviations 6"
        )

    def has_skipped_many(self, num_steps: int) -> bool:
        """Whether that is more than MAX_SKIPPED_SHARE of the steps done."""
        return self.num_skipped_steps > MAX_SKIPPED_SHARE * num_steps

    def summary(self, num_steps: int) -> str:
        """What was skipped of the steps done, as the end of a sentence; empty if nothing was."""
        if not self.num_skipped_steps:
            return ""
        share = f", more than {MAX_SKIPPED_SHARE:.0%}" if self.has_skipped_many(num_steps) else ""
        return f', {self.num_skipped_steps} of them skipped{share}: see "skipped": true in log.jsonl'

    def remember(self, loss: float) -> None:
        """Of a step that was applied, once its loss has come to the host."""
        self.recent_losses.append(loss)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "recent_losses": list(self.recent_losses),
            "num_skipped_steps": self.num_skipped_steps,
            "num_consecutive_skips": self.num_consecutive_skips,
        }
