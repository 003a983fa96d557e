"""Options of the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.settings.ranges import Count, CountOrZero, check_ranges

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class ReportOptions:
    """One HTML page about one or several runs, finished or still running: curves, pictures, facts. It needs no network
    and no other file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folders. The curves of several are drawn over one another, and the settings in which they differ listed."""
    out: Path | None = None
    """The page. None: report.html in the folder of the first run."""
    png: bool = False
    """Write the figures as PNG files too, into a folder beside the page. Needs matplotlib."""
    held_out: Path | None = None
    """Shards of held-out pairs or images, or of the task of a finetuning run, for the pictures. None: those that the
    run is evaluated on, if any."""
    visual_tokenizer: Path | None = None
    """The run's visual tokenizer, if it was moved. None: the path in the run's config."""
    num_images: CountOrZero = 6
    """Number of held-out images, and of captions, that are shown: the first of the shards. 0 shows none."""
    num_example_images: Count = 400
    """Number of training images from which the example patches of the codes are cut."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.runs:
            raise ValueError("RUN is missing; give one run folder or several")

    @property
    def page(self) -> Path:
        """The file to write."""
        return self.out or self.runs[0] / REPORT_NAME
