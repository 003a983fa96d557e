"""Predicted times stand beside measured ones, category by category."""

from dataclasses import fields, replace

import pytest
import torch

from pretrain.planning.assumptions import GPUS, Assumptions, GpuName
from pretrain.planning.roofline import ASSUMED
from pretrain.planning.step_times import AssumedMachine
from tests.benchmarks.profile_step import NOT_PREDICTED_ON_A_CPU, print_tables
from tests.benchmarks.step_cases import Case, make_case
from tests.benchmarks.step_prediction import AS_MEASURED, ON_A_CPU, PARTS, Prediction, gpu_of, measured_cpu, predicted
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
    assert {name for prediction in found.values() for name in prediction.assumptions} == known - {"reserve_gb"}
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


@pytest.mark.parametrize(
    ("device", "known"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA H200", "h200"),
     ("NVIDIA A100-SXM4-40GB", None), ("NVIDIA A100 80GB PCIe", None), ("NVIDIA H100 NVL", None), ("Tesla T4", None)],
)  # fmt: skip
def test_a_gpu_is_recognized_by_the_name_that_cuda_reports(device: str, known: GpuName | None) -> None:
    assert gpu_of(device) == (None if known is None else GPUS[known])


def test_what_is_not_predicted_on_a_cpu_is_named() -> None:
    assert all(name in NOT_PREDICTED_ON_A_CPU for name in set(CATEGORIES) - set(ON_A_CPU))
