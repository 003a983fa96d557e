"""Norms by part under every ZeRO stage, compared with plain torch on one process. Two CPU ranks, ten seconds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pretrain.monitoring.part_norms import joined
from tests.support.launch import run_ranks

PARTS = {"attention", "language", "rest", "vision", "vision_language"}


@pytest.mark.parametrize(("cases", "num_cases"), [([], 6), pytest.param(["all"], 24, marks=pytest.mark.slow)])
def test_norms_are_those_of_plain_torch_and_together_that_of_the_whole_gradient(
    cases: list[str], num_cases: int, tmp_path: Path
) -> None:
    out = tmp_path / "norms.json"
    ended = run_ranks(2, "tests.support.norm_ranks", [out, *cases])
    assert ended.exit_codes == [0, 0], ended.stderr
    norms: dict[str, Any] = json.loads(out.read_text())
    expected = norms["expected"]
    assert expected["grad_norms"].keys() == expected["weight_norms"].keys() == PARTS
    assert len(norms["measured"]) == num_cases
    for case, found in norms["measured"].items():
        is_rounded = "bfloat16" in case  # activations and gradients; the weights are float32 in both
        for field, rel in (("weight_norms", 1e-6), ("grad_norms", 0.05 if is_rounded else 1e-5)):
            assert found[field] == pytest.approx(expected[field], rel=rel), (case, field)
        # grad_norm is the norm before clipping
        assert math.hypot(*found["grad_norms"].values()) == pytest.approx(found["grad_norm"], rel=1e-5), case


def test_neighbouring_segments_are_measured_as_one() -> None:
    assert joined([(5, 2), (0, 3), (3, 2), (10, 1)]) == [(0, 7), (10, 1)]
    assert joined([]) == []
