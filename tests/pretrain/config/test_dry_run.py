"""Options of a training beside the recipe's fields. No time at all."""

import sys

import pytest

from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.dry_run import DryRunOptions
from pretrain.recipes import RECIPES


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["laptop", "--num-steps", "7"], DryRunOptions()),
        (["--dry-run", "laptop", "--num-steps", "7"], DryRunOptions(dry_run=True)),
        (["--local_rank=1", "laptop", "--num-steps", "7", "--dry-run"], DryRunOptions(dry_run=True)),
        (["laptop", "--dry-run-ranks", "64", "--num-steps", "7"], DryRunOptions(dry_run_ranks=64)),
    ],
)
def test_they_may_stand_anywhere(
    arguments: list[str], expected: DryRunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    config, options = parse_recipe_and_options(RECIPES, DryRunOptions, "pretrain.train")
    assert (config.num_steps, options) == (7, expected)
