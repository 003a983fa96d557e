"""Records of the steps, in order: read from the device one step late, counted by the guard, logged and shown."""

from collections.abc import Callable, Sequence
from typing import Any

from pretrain.run.device_copies import DeferredMetrics
from pretrain.run.run_log import RunLog
from pretrain.survival.step_guard import StepGuard


class StepRecords:
    """Records whose figures are read once the next step has been launched, so that the device never idles.

    If spikes are skipped they are read at once: whether a loss is a spike depends on the one before it.
    """

    def __init__(
        self,
        log: RunLog | None,
        guard: StepGuard,
        watchers: Sequence[Callable[[dict[str, Any]], None]] = (),
    ):
        """log: on the main rank; watchers: called there with each record once it is logged."""
        self.log, self.guard, self.watchers = log, guard, watchers
        self._late: DeferredMetrics | None = None

    def add(self, record: dict[str, Any]) -> None:
        """Add the record of a step just launched, see `RunLog.write`."""
        late = DeferredMetrics(record)
        self.flush()
        self._late = late
        if self.guard.spike_deviations:
            self.flush()

    def flush(self, is_kept: bool = False) -> None:
        """Read and log the record added last; is_kept: as in `RunLog.write`."""
        if self._late is None:
            if is_kept and self.log is not None:  # its line was written before, as before an evaluation
                self.log.sync()
            return
        record, self._late = self._late.read(), None
        if not record["skipped"]:
            self.guard.remember(record["loss"])
        if self.log is not None:
            self.log.write(record, is_kept)
            for watch in self.watchers:
                watch(record)
