"""Losses of fifty steps stay the same under every optimization. CPU, one rank or two under ZeRO-3."""

import json
from pathlib import Path

import pytest

from tests.golden.fifty_steps import GOLDEN, NUM_STEPS, Golden, fifty_steps
from tests.support.tiny_run import TinyData

TOLERANCE = 1e-3
"""Tolerance of losses of about 10. Another order of summation changes them by 1e-5 in fifty steps, a missing gradient
of one expert by more than 1e-2."""


SELECTIVE = ["--activation-checkpointing.mode", "selective"]
FULL = ["--activation-checkpointing.mode", "full", "--activation-checkpointing.every", 2]
NONE = ["--activation-checkpointing.mode", "none"]
COMPILED = ["--kernels", "compile"]
ACCUMULATED = ["--gradient-accumulation-steps", 2]


@pytest.mark.parametrize(
    ("run", "extra", "num_ranks"),
    [
        ("whole_images", SELECTIVE, 1),  # the losses depend on no topology, and one rank takes half of the time
        *(
            pytest.param(run, extra, 2, marks=pytest.mark.slow)
            for run, cases in {
                "paper": [SELECTIVE, FULL, NONE, COMPILED, ACCUMULATED],
                "whole_images": [SELECTIVE, ACCUMULATED, COMPILED],
                "vqa": [SELECTIVE, FULL, COMPILED, ACCUMULATED],
            }.items()
            for extra in cases
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_fifty_steps_give_the_golden_losses(
    run: Golden, extra: list[object], num_ranks: int, tiny_data: TinyData, tmp_path: Path
) -> None:
    golden = json.loads(GOLDEN[run].read_text())["losses"]
    assert len(golden) == NUM_STEPS
    assert fifty_steps(tiny_data, tmp_path / "run", run, extra, num_ranks) == pytest.approx(golden, abs=TOLERANCE)
