"""Options of pretrain.doctor."""

from dataclasses import dataclass

from data_pipeline.settings.ranges import Count, Seconds, check_ranges


@dataclass(frozen=True)
class DoctorOptions:
    """The checks, and the form of the report."""

    ranks: Count | None = None
    """Ranks of the run that is planned. None: a node of 8, or as many of its GPUs as divide the batch."""
    deadline: Seconds = 120.0
    """Seconds that a check may take before it is ended and reported as hanging."""
    quiet: bool = False
    """Print warnings, errors and the summary alone."""
    json: bool = False
    """Print one JSON object at the end, for scripts, instead of lines."""

    def __post_init__(self) -> None:
        check_ranges(self)
