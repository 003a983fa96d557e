"""The codebook over ranks, in real processes. CPU, seconds."""

from pathlib import Path

import torch

from tests.codebook_ranks import NUM_CODES, NUM_STEPS
from tests.launch import run_ranks


def test_all_ranks_hold_the_same_codebook_to_the_bit_and_it_does_not_depend_on_their_number(tmp_path: Path) -> None:
    results = {}
    for num_ranks in (1, 2, 4):
        path = tmp_path / f"{num_ranks}.pt"
        ended = run_ranks(num_ranks, "tests.codebook_ranks", [path])  # each step compares the ranks
        assert set(ended.exit_codes) == {0}, ended.stderr
        results[num_ranks] = torch.load(path, weights_only=True)
    alone = results[1]
    assert len(alone["uses"]) == NUM_STEPS
    for num_ranks in (2, 4):
        for name, value in alone["state"].items():
            torch.testing.assert_close(results[num_ranks]["state"][name], value, rtol=0, atol=1e-5)
        assert [use["usage"] for use in results[num_ranks]["uses"]] == [use["usage"] for use in alone["uses"]]
    assert all(0 < use["usage"] <= use["live_share"] <= 1 for use in alone["uses"])
    assert all(1 <= use["perplexity"] <= NUM_CODES * use["usage"] + 1e-3 for use in alone["uses"])
    assert min(use["usage"] for use in alone["uses"]) < 1  # codes died, so revival was at work
