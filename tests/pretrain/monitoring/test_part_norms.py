"""Norms by part under every ZeRO stage, compared with plain torch on one process. Two CPU ranks, ten seconds."""

import json
import math
from typing import Any

import pytest

from pretrain.monitoring.part_norms import joined
from tests.support.launch import run_ranks

PARTS = {"attention", "language", "rest", "vision", "vision_language"}


@pytest.fixture(scope="module")
def norms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("norms") / "norms.json"
    ended = run_ranks(2, "tests.support.norm_ranks", [out])
    assert ended.exit_codes == [0, 0], ended.stderr
    return json.loads(out.read_text())


def test_norms_are_those_of_plain_torch_under_every_stage(norms: dict[str, Any]) -> None:
    expected = norms["expected"]
    assert expected["grad_norms"].keys() == expected["weight_norms"].keys() == PARTS
    assert len(norms["measured"]) == 24
    for case, found in norms["measured"].items():
        is_rounded = "bfloat16" in case  # activations and gradients; the weights are float32 in both
        for field, rel in (("weight_norms", 1e-6), ("grad_norms", 0.05 if is_rounded else 1e-5)):
            assert found[field] == pytest.approx(expected[field], rel=rel), (case, field)


def test_norms_of_all_parts_make_the_norm_of_the_whole_gradient_before_clipping(norms: dict[str, Any]) -> None:
    for case, found in norms["measured"].items():
        assert math.hypot(*found["grad_norms"].values()) == pytest.approx(found["grad_norm"], rel=1e-5), case


def test_neighbouring_segments_are_measured_as_one() -> None:
    assert joined([(5, 2), (0, 3), (3, 2), (10, 1)]) == [(0, 7), (10, 1)]
    assert joined([]) == []
