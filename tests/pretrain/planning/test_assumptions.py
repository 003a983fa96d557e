"""Every assumption of the predicted step time states where it comes from."""

import ast
import itertools
from dataclasses import fields

from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.run.speed import PEAK_TFLOPS
from tests.support.launch import ROOT

ORIGINS = ("Datasheet", "Counted", "CPU", "Assumed", "The same", "a multiple")
"""Words of a docstring that say where a figure comes from."""


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


def test_every_assumption_has_an_origin() -> None:
    found = docstrings()
    assert list(found) == [field.name for field in fields(Assumptions)]
    for name, text in found.items():
        assert any(origin in text for origin in ORIGINS), name


def test_a_gpu_has_a_peak_for_each_precision() -> None:
    h100 = GPUS["h100"]
    assert h100.in_precision("bfloat16") == h100 and h100.in_precision("float32").peak_tflops == h100.float32_tflops
    assert all(gpu.peak_tflops == PEAK_TFLOPS[name.upper()] for name, gpu in GPUS.items())  # what runs measure against


def test_each_stage_has_its_own_time_per_gradient() -> None:
    assumed = Assumptions(bucket1_us=1.0, bucket2_us=2.0, bucket3_us=3.0)
    assert [assumed.bucket_us(stage) for stage in (1, 2, 3)] == [1.0, 2.0, 3.0]
