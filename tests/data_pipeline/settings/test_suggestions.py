"""Suggestions for misspelled names."""

from data_pipeline.settings.suggestions import did_you_mean

NAMES = ["--num-steps", "--data.num-workers", "--model.dim"]


def test_a_misspelled_name_is_corrected() -> None:
    assert did_you_mean("--num-step", NAMES) == "; did you mean --num-steps?"


def test_the_part_before_a_dot_may_be_left_out() -> None:
    assert did_you_mean("--num-workers", NAMES) == "; did you mean --data.num-workers?"
    assert did_you_mean("--num-worker", NAMES) == "; did you mean --data.num-workers?"


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    assert did_you_mean("--frobnicate", NAMES) == ""
