"""Predicted times stand beside measured ones, category by category."""

from dataclasses import fields, replace

import pytest
import torch

from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.roofline import ASSUMED
from pretrain.planning.step_times import AssumedMachine
from tests.benchmarks.profile_step import print_tables
from tests.benchmarks.step_cases import Case, make_case
from tests.benchmarks.step_prediction import AS_MEASURED, PARTS, Prediction, measured_cpu, predicted
from tests.benchmarks.step_timeline import CATEGORIES

H100 = AssumedMachine(GPUS["h100"], Assumptions())
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def small_case() -> Case:
    return make_case("base_1_layer", 2, recipe="beit3_base", depth=1, vocab_size=1000, on_gpu=True)


def test_every_predicted_part_belongs_to_one_measured_category() -> None:
    assert list(PARTS) == list(CATEGORIES)
    assert sorted(part for parts in PARTS.values() for part in parts) == sorted(ASSUMED)


def test_categories_name_their_assumptions_and_follow_them() -> None:
    case = small_case()
    found = predicted(case, "triton", 1, H100, CUDA)
    assert list(found) == list(CATEGORIES) and all(prediction.assumptions for prediction in found.values())
    known = {field.name for field in fields(Assumptions)}
    assert {name for prediction in found.values() for name in prediction.assumptions} == known
    slower = predicted(case, "triton", 1, AssumedMachine(H100.gpu, Assumptions(product_share=0.31)), CUDA)
    assert slower["GEMM"].seconds == pytest.approx(2 * found["GEMM"].seconds, rel=0.2)
    assert slower["optimizer"].seconds == found["optimizer"].seconds


def test_on_a_cpu_its_measured_speeds_predict_products_and_copies() -> None:
    cpu = measured_cpu()
    assert cpu.peak_tflops > 1e-4 and cpu.memory_tb > 1e-5
    case = small_case()
    case = replace(case, config=replace(case.config, precision="float32"))
    found = predicted(case, "triton", 1, AssumedMachine(cpu, AS_MEASURED), CPU)
    assert list(found) == ["GEMM", "memory-bound", "optimizer"]
    products = found["GEMM"].seconds * cpu.peak_tflops * 1e12
    # attention's products are not among them
    assert 0.9 * case.flops < products < case.flops * 1.1


def test_the_table_has_measured_beside_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {category: {"kernel": 0.004} for category in CATEGORIES}
    print_tables("title", seconds, 2, {"GEMM": Prediction(0.003, ("product_share",))})
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["GEMM", "2.00", "16.7%", "3.00", "product_share"]
    assert lines[4].split() == ["attention", "2.00", "16.7%"]
