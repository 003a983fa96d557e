"""What the benchmark of a step does with competitors that differ, and where its search for memory starts. CPU."""

import math
from dataclasses import replace

import pytest

from tests.benchmarks.bench_step import Measured, differences, planned_num_parts
from tests.benchmarks.step_cases import make_case
from tests.benchmarks.step_engines import Variant

CASE = make_case("case", 8, recipe="beit3_base", depth=1, vocab_size=1000)
BFLOAT16 = replace(CASE, config=replace(CASE.config, precision="bfloat16"))


def test_losses_that_differ_are_an_error_in_float32_and_a_figure_in_bfloat16(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alike: dict[Variant, Measured] = {"reference": Measured(1, [2.0, 3.0]), "triton": Measured(1, [2.0, 3.0005])}
    assert differences(CASE, alike) == pytest.approx({"case_triton_loss_difference": 0.0005}, rel=1e-2)
    assert capsys.readouterr().out == ""
    for loss in (3.01, math.nan):
        apart: dict[Variant, Measured] = {**alike, "triton": Measured(1, [2.0, loss])}
        with pytest.raises(AssertionError, match="losses of triton"):
            differences(CASE, apart)
        assert differences(BFLOAT16, apart).keys() == {"case_triton_loss_difference"}
        assert "note: losses of triton" in capsys.readouterr().out


def test_the_search_for_memory_starts_at_what_is_planned_to_fit() -> None:
    parts = [planned_num_parts(CASE, "reference", free_bytes) for free_bytes in (2**40, 3 * 10**9, 0)]
    assert parts[0] == 1 and parts == sorted(parts) and parts[2] == 8
