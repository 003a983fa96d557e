"""The guard of the weights: steps with a loss or gradient that is not finite are skipped, on request also loss spikes.

Nothing here decides on one rank alone: losses are those of the global batch, and DeepSpeed sums its overflow flag.
"""

import math
import statistics
from collections import deque
from typing import Any

from torch import Tensor

NUM_RECENT = 128
"""Recent losses that a spike is compared with, as in OLMo's optimizer that skips steps."""
MIN_RECENT = 32
"""Recent losses needed before a spike can be told from noise."""
MAX_SKIPPED_SHARE = 0.2
"""Share of skipped steps above which a completed run ends with an exit code of its own."""


class StepGuard:
    """Recent losses and counts of skipped steps, the same on every rank and saved with each checkpoint."""

    def __init__(self, spike_deviations: float, max_consecutive_skips: int, saved: dict[str, Any] | None = None):
        """spike_deviations: standard deviations above the mean that make a spike, 0 disables; saved: a `state()`."""
        self.spike_deviations = spike_deviations
        self.max_consecutive_skips = max_consecutive_skips
        saved = saved or {"recent_losses": [], "num_skipped_steps": 0, "num_consecutive_skips": 0}
        self.recent_losses = deque[float](saved["recent_losses"], NUM_RECENT)
        self.num_skipped_steps: int = saved["num_skipped_steps"]
        self.num_consecutive_skips: int = saved["num_consecutive_skips"]

    def factor(self, loss: Tensor) -> Tensor:
        """Return the factor of the last backward's loss: 1, or NaN if the step is to be skipped.

        loss: of the global batch, the same on every rank. NaN spreads to the whole accumulated gradient, and DeepSpeed
        applies no gradient that is not finite, on any rank.
        """
        if self.spike_deviations and self.is_spike(float(loss)):  # waits for the device; only if spikes are skipped
            return loss * math.nan
        return loss * 0 + 1  # NaN if the loss is not finite, without looking at it

    def is_spike(self, loss: float) -> bool:
        """Return whether a loss lies too far above the recent ones."""
        if not self.spike_deviations or len(self.recent_losses) < MIN_RECENT:
            return False
        mean, deviation = statistics.fmean(self.recent_losses), statistics.pstdev(self.recent_losses)
        return loss > mean + self.spike_deviations * deviation

    def count(self, skipped: bool) -> str:
        """Count a step. Returns why the run must end, empty unless too many steps in a row were skipped."""
        if not skipped:
            self.num_consecutive_skips = 0
            return ""
        self.num_skipped_steps += 1
        self.num_consecutive_skips += 1
        if self.num_consecutive_skips < self.max_consecutive_skips:
            return ""
        return (
            f"{self.num_consecutive_skips} steps in a row had no finite loss and gradient, or a spike of the loss; "
            "start a new run with a lower learning rate, or resume with --spike-deviations 6"
        )

    def has_skipped_many(self, num_steps: int) -> bool:
        """Return whether more than MAX_SKIPPED_SHARE of the steps were skipped."""
        return self.num_skipped_steps > MAX_SKIPPED_SHARE * num_steps

    def summary(self, num_steps: int) -> str:
        """Return the end of a sentence about the steps done: how many were skipped; empty if none was."""
        if not self.num_skipped_steps:
            return ""
        share = f", more than {MAX_SKIPPED_SHARE:.0%}" if self.has_skipped_many(num_steps) else ""
        return f', {self.num_skipped_steps} of them skipped{share}: see "skipped": true in log.jsonl'

    def remember(self, loss: float) -> None:
        """Add the loss of an applied step, once it has come to the host."""
        self.recent_losses.append(loss)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint saves."""
        return {
            "recent_losses": list(self.recent_losses),
            "num_skipped_steps": self.num_skipped_steps,
            "num_consecutive_skips": self.num_consecutive_skips,
        }
