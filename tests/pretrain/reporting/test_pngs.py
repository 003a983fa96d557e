"""Figures as files."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from pretrain.reporting.figures import chart_sections
from pretrain.reporting.pngs import check_matplotlib, file_name, write_pngs
from pretrain.reporting.run_files import read_run
from tests.support.written_runs import write_run


def test_every_chart_becomes_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; pip install matplotlib")
    sections = chart_sections([read_run(write_run(tmp_path / "run"))])
    charts = [section.charts[0] for section in sections if section.id in ("time", "losses", "evaluation")]
    written = write_pngs(charts, tmp_path / "figures")
    assert [path.name for path in written] == [
        "time_line.png",
        "loss_the_weighted_sum.png",
        "hidden_words_accuracy.png",
    ]
    for path in written:
        with Image.open(path) as picture:
            assert picture.width == 900 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_without_matplotlib_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--png needs matplotlib, which is not installed; pip install matplotlib"):
        check_matplotlib()


@pytest.mark.parametrize(("title", "name"), [("Words (mlm)", "words_mlm"), ("../../x", "x"), ("///", "figure")])
def test_titles_become_safe_names(title: str, name: str) -> None:
    assert file_name(title) == name
