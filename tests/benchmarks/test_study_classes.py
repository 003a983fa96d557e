"""Classes of images that nobody here made against the majority class: handwritten digits, and emoji of an artist who is
in no training. CPU, minutes."""

from pathlib import Path

import pytest

from tests.benchmarks.study_classes import EMOJI, digits_figures, emoji_figures


@pytest.mark.slow
def test_handwritten_digits_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")
    found = digits_figures(tmp_path, num_steps=250)
    assert found["digits_chance"] == 0.1 and found["digits_majority"] < 0.12
    assert found["digits"] > 0.8, found


@pytest.mark.slow
@pytest.mark.skipif(not EMOJI.is_dir(), reason="the pictures of emoji artists are not there")
def test_groups_of_emoji_are_recognized_in_the_drawings_of_an_artist_never_seen(tmp_path: Path) -> None:
    found = emoji_figures(EMOJI, tmp_path, num_steps=250, every=2)
    assert found["emoji_chance"] == pytest.approx(1 / 9)
    assert found["emoji"] > found["emoji_majority"] + 0.15, found
