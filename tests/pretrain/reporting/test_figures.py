"""Which figures are drawn in which chart."""

from pathlib import Path
from typing import Any

import numpy as np

from pretrain.reporting.charts import Chart
from pretrain.reporting.figures import chart_sections, passes_chart
from pretrain.reporting.run_files import read_run, read_runs
from tests.support.written_runs import write_run


def charts_of(*folders: Path) -> dict[str, Chart]:
    """Return all charts of a report by title."""
    return {chart.title: chart for section in chart_sections(read_runs(folders)) for chart in section.charts}


def test_held_out_losses_are_drawn_over_those_of_training(tmp_path: Path) -> None:
    chart = charts_of(write_run(tmp_path / "run"))["Words of texts (mlm)"]
    assert [(line.label, line.style) for line in chart.lines] == [
        ("single steps", "faint"),
        ("running mean", "line"),
        ("held-out", "points"),
        ("held-out, averaged weights", "hollow"),
    ]
    assert chart.lines[2].column.steps.tolist() == [0, 10, 20, 30, 40] and chart.restarts == [20]
    assert np.allclose(chart.lines[2].column.values - chart.lines[3].column.values, 0.1)
    assert len({line.color for line in chart.lines}) == 3


def test_held_out_figures_of_a_kind_share_a_chart(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "run"))
    words = charts["Hidden words: accuracy"]
    assert words.unit == "%" and [line.label for line in words.lines] == [
        "commonest", "right image", "right image, averaged weights", "wrong image",
    ]  # fmt: skip
    assert charts["k-NN: accuracy"].lines[0].column.values.tolist() == [0.3] * 5
    assert [line.label for line in charts["Gradient norm by part"].lines] == ["language", "vision"]


def test_a_contrastive_run_has_its_loss_once_and_figures_of_its_batch(tmp_path: Path) -> None:
    contrast = {"scale": 14.3, "image_to_text": 0.2, "text_to_image": 0.1}
    changed = {step: {"losses": {"contrastive": 4.0}, "contrast": contrast} for step in range(40)}
    charts = charts_of(write_run(tmp_path / "run", 40, changed))
    assert "Images and texts (contrastive)" in charts and "Loss: the weighted sum" not in charts
    right = charts["Images whose own text is the nearest of the batch"]
    assert right.unit == "%" and set(right.lines[0].column.values.tolist()) == {0.2}
    assert set(charts["Factor of similarities, exp(logit_scale)"].lines[0].column.values.tolist()) == {14.3}


def test_several_runs_are_drawn_over_one_another(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "a", 40), write_run(tmp_path / "b", 60, evaluated_every=None))
    loss = charts["Loss: the weighted sum"]
    assert [(line.label, line.color) for line in loss.lines] == [("a", 0), ("b", 1)] and loss.num_steps == 60
    assert not loss.has_legend and not loss.restarts
    assert [line.label for line in charts["Hidden words: accuracy right image"].lines] == ["a", "a, averaged weights"]


def test_the_time_line_has_starts_evaluations_skips_and_bad_samples(tmp_path: Path) -> None:
    changed: dict[int, dict[str, Any]] = {7: {"skipped": True}, 8: {"skipped": True}, 30: {"bad_samples": 2}}
    chart = charts_of(write_run(tmp_path / "run", 40, changed))["Time line"]
    marks = {chart.rows[int(line.column.values[0])]: line.column.steps.tolist() for line in chart.lines}
    assert marks == {
        "started": [0, 20],
        "evaluated": [0, 10, 20, 30, 40],
        "skipped": [8, 9],
        "bad samples": [31],
    }


def test_a_figure_that_the_report_does_not_know_is_drawn(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "run", 40, {step: {"entropy": 1.0} for step in range(40)}))
    assert charts["Entropy"].lines[-1].column.values.tolist() == [1.0] * 40


def test_an_old_run_has_charts_of_what_it_logged(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "run", starts=None, evaluated_every=None))
    assert "Tokens per second, all ranks" in charts and "Waiting for data" in charts
    assert not any("Hidden" in title or "k-NN" in title for title in charts)


def test_passes_are_those_of_each_source(tmp_path: Path) -> None:
    chart = passes_chart([read_run(write_run(tmp_path / "run"))])
    assert {line.label: line.column.values.tolist() for line in chart.lines} == {
        "image: data/images": [1.4],
        "pair: s3://bucket/pairs": [0.7],
    }
