"""Options of the trainings besides the recipe's fields."""

from dataclasses import dataclass

from data_pipeline.settings.ranges import Count, check_ranges


@dataclass(frozen=True)
class DryRunOptions:
    """A dry run, which shows what the same command would do and ends; it changes nothing in the run folder."""

    dry_run: bool = False
    """Print the resolved config, DeepSpeed's, the plan, the data, the first batch and the checkpoint that would be
    resumed, and end. The main rank does it alone."""
    dry_run_ranks: Count | None = None
    """Ranks that the dry run plans for. None: those of the launcher or, without one, a node of 8, or as many of its
    GPUs as divide the batch."""

    def __post_init__(self) -> None:
        check_ranges(self)
