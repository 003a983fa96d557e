"""Losses of fifty steps stay the same under every optimization. CPU, two ranks under ZeRO-3."""

import json
from pathlib import Path

import pytest

from tests.golden.fifty_steps import GOLDEN, NUM_STEPS, fifty_steps
from tests.support.tiny_run import TinyData

TOLERANCE = 1e-3
"""Tolerance of losses of about 10. Another order of summation changes them by 1e-5 in fifty steps, a missing gradient
of one expert by more than 1e-2."""


@pytest.mark.parametrize(
    ("share", "extra"),
    [
        pytest.param(0.0, ["--activation-checkpointing.mode", "selective"], marks=pytest.mark.slow),
        (0.5, ["--activation-checkpointing.mode", "selective"]),
        pytest.param(
            0.0,
            ["--activation-checkpointing.mode", "full", "--activation-checkpointing.every", "2"],
            marks=pytest.mark.slow,
        ),
        pytest.param(0.0, ["--activation-checkpointing.mode", "none"], marks=pytest.mark.slow),
        pytest.param(0.0, ["--kernels", "compile"], marks=pytest.mark.slow),
        pytest.param(0.0, ["--gradient-accumulation-steps", "2"], marks=pytest.mark.slow),
        pytest.param(0.5, ["--gradient-accumulation-steps", "2"], marks=pytest.mark.slow),
        pytest.param(0.5, ["--kernels", "compile"], marks=pytest.mark.slow),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else f"share {value}",
)
def test_fifty_steps_give_the_golden_losses(
    share: float, extra: list[str], tiny_data: TinyData, tmp_path: Path
) -> None:
    golden = json.loads(GOLDEN[share].read_text())["losses"]
    assert len(golden) == NUM_STEPS
    assert fifty_steps(tiny_data, tmp_path / "run", share, extra) == pytest.approx(golden, abs=TOLERANCE)
