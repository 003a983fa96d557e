"""Every assumption of the predicted step time states where it comes from."""

import ast
import itertools
from dataclasses import fields

from pretrain.planning.assumptions import GPUS, Assumptions, Origin, origin_of
from pretrain.planning.step_times import AssumedMachine
from pretrain.run.speed import PEAK_TFLOPS
from tests.support.launch import ROOT

WORDS: dict[str, Origin] = {"Datasheet": "published", "Counted": "counted", "CPU:": "measured", "CPU, into": "measured",
                            "Assumed": "assumed"}  # fmt: skip
"""Words of a docstring that say where a figure comes from; the origin printed beside it."""


def docstrings() -> dict[str, str]:
    """Return the docstring of each field of Assumptions."""
    source = (ROOT / "pretrain/planning/assumptions.py").read_text()
    (body,) = (
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Assumptions"
    )
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def test_every_assumption_has_the_origin_that_its_docstring_names() -> None:
    found = docstrings()
    assert list(found) == [field.name for field in fields(Assumptions)]
    before: set[Origin] = set()
    for name, text in found.items():
        named = {origin for word, origin in WORDS.items() if word in text}
        if not named:
            assert text.startswith("The same"), name  # as the one before it
            named = before
        assert named == {origin_of(name, Assumptions())}, name
        before = named


def test_a_figure_that_is_not_the_default_is_assumed_by_whoever_gave_it() -> None:
    assert origin_of("optimizer_bytes", Assumptions()) == "counted"
    assert origin_of("optimizer_bytes", Assumptions(optimizer_bytes=46.0)) == "assumed"
    assert origin_of("within_gb", Assumptions(within_gb=300.0)) == "assumed"


def test_a_gpu_has_the_link_of_its_datasheet_unless_another_is_assumed() -> None:
    assert AssumedMachine(GPUS["a100"], Assumptions()).figure("within_gb") == 300
    assert AssumedMachine(GPUS["a100"], Assumptions(within_gb=25.0)).network.within_gb_per_second == 25


def test_the_a100_has_the_figures_of_its_datasheet() -> None:
    a100 = GPUS["a100"]
    assert (a100.peak_tflops, a100.float32_tflops, a100.memory_tb, a100.memory_gb) == (312, 19.5, 2.039, 80)


def test_a_gpu_has_a_peak_for_each_precision() -> None:
    h100 = GPUS["h100"]
    assert h100.in_precision("bfloat16") == h100 and h100.in_precision("float32").peak_tflops == h100.float32_tflops
    assert all(gpu.peak_tflops == PEAK_TFLOPS[name.upper()] for name, gpu in GPUS.items())  # what runs measure against


def test_each_stage_has_its_own_time_per_gradient() -> None:
    assumed = Assumptions(bucket1_us=1.0, bucket2_us=2.0, bucket3_us=3.0)
    assert [assumed.bucket_us(stage) for stage in (1, 2, 3)] == [1.0, 2.0, 3.0]
