"""Options of the report."""

from pathlib import Path

import pytest

from data_pipeline.settings.parsing import UsageError, parse_options
from pretrain.reporting.options import ReportOptions


def test_the_page_lies_in_the_first_run_unless_another_place_is_given() -> None:
    assert parse_options(ReportOptions, ["a", "b"], "").page == Path("a/report.html")
    assert parse_options(ReportOptions, ["a", "b", "--out", "x.html"], "").page == Path("x.html")


def test_at_least_one_run_is_needed() -> None:
    with pytest.raises((UsageError, ValueError), match="RUN"):
        parse_options(ReportOptions, [], "python -m pretrain.report")
