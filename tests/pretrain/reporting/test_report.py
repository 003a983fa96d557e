"""Reports as files: the page and its figures, of short runs and of one with 200,000 lines."""

from pathlib import Path

import pytest

from pretrain.reporting.options import ReportOptions
from pretrain.reporting.report import write_report
from tests.support.written_runs import log_record, write_lines, write_run


def test_the_page_lies_in_the_run_and_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    said = write_report(ReportOptions((run,)))
    assert said.startswith(f"{run}/report.html (0.") and "No pictures" in said
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not [*run.glob("*.partial")]


def test_figures_are_written_beside_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; pip install matplotlib")
    run = write_run(tmp_path / "run", 10, starts=None, evaluated_every=None)
    said = write_report(ReportOptions((run,), out=tmp_path / "new" / "page.html", png=True, num_images=0))
    figures = [*(tmp_path / "new" / "page_figures").glob("*.png")]
    assert len(figures) > 8 and f"{len(figures)} figures in" in said


@pytest.mark.slow  # writes and reads 130 MB
def test_a_long_run_has_a_small_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 10)
    write_lines(run / "log.jsonl", [log_record(step, 200_000) for step in range(200_000)])
    write_report(ReportOptions((run,)))
    assert (run / "log.jsonl").stat().st_size > 80e6 > 2e6 > (run / "report.html").stat().st_size
