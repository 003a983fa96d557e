"""Records of the steps, in order: read from the device one step late, counted by the guard, logged by the main rank."""

from collections.abc import Callable
from typing import Any

from pretrain.jobs.job import StepWork
from pretrain.run.device_copies import DeferredMetrics
from pretrain.run.run_log import RunLog
from pretrain.run.speed import SpeedMeter
from pretrain.survival.step_guard import StepGuard


class StepRecords:
    """Records whose figures are read once the next step has been launched, so that the device never idles.

    If spikes are skipped they are read at once: whether a loss is a spike depends on the one before it.
    """

    def __init__(
        self,
        log: RunLog | None,
        guard: StepGuard,
        speed: SpeedMeter | None = None,
        check_record: Callable[[dict[str, Any]], None] | None = None,
    ):
        """log: on the main rank; speed: adds its figures; check_record: called with each record before it is logged."""
        self.log, self.guard, self.speed, self.check_record = log, guard, speed, check_record
        self._late: DeferredMetrics | None = None

    def add(self, record: dict[str, Any], work: StepWork | None = None) -> None:
        """Add the record of a step just launched, see `RunLog.write`; work: of all ranks, None if unknown."""
        speed = {} if self.speed is None or work is None else self.speed.step_ended(work, record["seconds"])
        late = DeferredMetrics(record | speed)
        self.flush()
        self._late = late
        if self.guard.spike_deviations:
            self.flush()

    def leave_out_time(self) -> None:
        """Count the time since the last step as no part of the next one, as after an evaluation."""
        if self.speed is not None:
            self.speed.leave_out_time()

    def flush(self, is_kept: bool = False) -> None:
        """Read and log the record added last; is_kept: as in `RunLog.write`."""
        if self._late is None:
            return
        record, self._late = self._late.read(), None
        if not record["skipped"]:
            self.guard.remember(record["loss"])
        if self.log is not None:
            if self.check_record is not None:
                self.check_record(record)
            self.log.write(record, is_kept)
