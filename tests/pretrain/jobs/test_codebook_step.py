"""Codebook updates on several ranks, in real processes. CPU, seconds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.quantizer import Codebook
from pretrain.jobs import codebook_step
from pretrain.jobs.codebook_step import CODEBOOK_FIGURES, update_codebook
from tests.support.codebook_ranks import NUM_CODES, NUM_STEPS
from tests.support.launch import run_ranks


def learned(num_ranks: int, revival_threshold: float, path: Path) -> dict[str, Any]:
    # each step compares the ranks
    ended = run_ranks(num_ranks, "tests.support.codebook_ranks", [path, revival_threshold])
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
    assert (without_revival["state"]["codes"] - alone["state"]["codes"]).abs().max() > 0.1  # revival took place above


def test_nothing_of_an_update_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Update on the meta device, where every read of a value fails."""
    monkeypatch.setattr(codebook_step, "summed_over_ranks", lambda values: values)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    with torch.device("meta"):
        codebook, features = Codebook(NUM_CODES, 8), torch.empty(40, 8)
    use = update_codebook(codebook, features, decay=0.9, revival_threshold=0.1, seed=0, step=3)
    assert tuple(use) == CODEBOOK_FIGURES
    assert all(figure.device.type == "meta" and figure.numel() == 1 for figure in use.values())
