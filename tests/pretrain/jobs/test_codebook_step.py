"""The codebook over ranks, in real processes. CPU, seconds."""

from pathlib import Path
from typing import Any

import torch

from tests.support.codebook_ranks import NUM_CODES, NUM_STEPS
from tests.support.launch import run_ranks


def learned(num_ranks: int, revival_threshold: float, path: Path) -> dict[str, Any]:
    ended = run_ranks(
        num_ranks, "tests.support.codebook_ranks", [path, revival_threshold]
    )  # each step compares the ranks
    assert set(ended.exit_codes) == {0}, ended.stderr
    return dict(torch.load(path, weights_only=True))


def test_all_ranks_hold_the_same_codebook_to_the_bit_and_it_does_not_depend_on_their_number(tmp_path: Path) -> None:
    alone = learned(1, 0.5, tmp_path / "1.pt")
    assert len(alone["uses"]) == NUM_STEPS
    for num_ranks in (2, 4):
        found = learned(num_ranks, 0.5, tmp_path / f"{num_ranks}.pt")
        for name, value in alone["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=0, atol=1e-5)
        assert [use["usage"] for use in found["uses"]] == [use["usage"] for use in alone["uses"]]
    assert all(0 < use["usage"] <= use["live_share"] <= 1 for use in alone["uses"])
    assert all(1 <= use["perplexity"] <= NUM_CODES * use["usage"] + 1e-3 for use in alone["uses"])
    without_revival = learned(1, 0, tmp_path / "without.pt")
    assert (without_revival["state"]["codes"] - alone["state"]["codes"]).abs().max() > 0.1  # it was at work above
