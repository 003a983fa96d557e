"""The report on runs: read their folders, draw, and write one page and, with --png, its figures as files."""

from pathlib import Path

from data_pipeline.files.partial_files import write_text_atomically
from pretrain.reporting.figures import chart_sections, passes_chart
from pretrain.reporting.options import ReportOptions
from pretrain.reporting.page import render
from pretrain.reporting.pictures import pictures_of
from pretrain.reporting.pngs import check_matplotlib, write_pngs
from pretrain.reporting.run_files import RunFiles, read_runs


def write_report(options: ReportOptions) -> str:
    """Write the page, and return a line about it.

    Raises ValueError for a folder that is not a run, OSError if a file cannot be read or written.
    """
    if options.png:
        check_matplotlib()
    runs = read_runs(options.runs)
    pictures = [pictures_of(run, options) for run in runs] if options.num_images else []
    options.page.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(options.page, render(runs, pictures))
    missing = [f"  {sentence}" for shown in pictures for sentence in shown.missing]
    written = [f"{options.page} ({options.page.stat().st_size / 1e6:.1f} MB)"]
    if options.png:
        folder = options.page.with_name(f"{options.page.stem}_figures")
        written.append(f"{len(draw_pngs(runs, folder))} figures in {folder}")
    return "\n".join([", ".join(written), *missing])


def draw_pngs(runs: list[RunFiles], folder: Path) -> list[Path]:
    """Write every chart of the page as a PNG file. Raises OSError."""
    charts = [chart for section in chart_sections(runs) for chart in section.charts]
    passes = passes_chart(runs)
    return write_pngs(charts if passes.is_empty else [*charts, passes], folder)
