"""Speed and MFU of steps, by a clock that stands in for time. CPU, no time at all."""

from mmap import mmap
from types import SimpleNamespace

import pytest
import torch

from pretrain.jobs.job import StepWork
from pretrain.planning.options import H100_TFLOPS
from pretrain.run.speed import PEAK_TFLOPS, SpeedMeter, TimedBatches, memory_gib, peak_flops

CPU = torch.device("cpu")


def test_speed_is_measured_from_step_to_step_and_the_first_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 104.0])
    monkeypatch.setattr("pretrain.run.speed.time", SimpleNamespace(monotonic=lambda: next(now)))
    meter, work = SpeedMeter(2, CPU), StepWork(num_tokens=800, flops=16 * 10**12)
    first = {"num_tokens": 800, "tokens_per_second": 1600.0, "tflops_per_rank": 16.0, "data_wait": 0.75}
    assert meter.step_ended(work, 0.5, wait_seconds=1.5) == first
    second = {"num_tokens": 800, "tokens_per_second": 200.0, "tflops_per_rank": 2.0, "data_wait": 0.25}
    assert meter.step_ended(work, 0.5, wait_seconds=1.0) == second


def test_a_job_without_figures_of_its_work_has_its_wait_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 104.0])
    monkeypatch.setattr("pretrain.run.speed.time", SimpleNamespace(monotonic=lambda: next(now)))
    meter = SpeedMeter(2, CPU)
    assert meter.step_ended(None, 0.5, wait_seconds=0.5) == {"data_wait": 0.5}
    assert meter.step_ended(None, 0.5, wait_seconds=3.0) == {"data_wait": 0.75}


def test_the_wait_for_each_batch_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([1.0, 3.0, 10.0, 10.5, 20.0, 20.0])
    monkeypatch.setattr("pretrain.run.speed.time", SimpleNamespace(perf_counter=lambda: next(now)))
    reading = TimedBatches()
    assert [(batch, reading.wait_seconds) for batch in reading.timed("ab")] == [("a", 2.0), ("b", 0.5)]


def test_memory_is_that_of_this_process() -> None:
    before, block = memory_gib(CPU), mmap(-1, 2**28)  # not from the allocator, which may own so much already
    torch.frombuffer(block, dtype=torch.uint8).fill_(1)
    assert 0.2 < memory_gib(CPU) - before < 0.3


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 PCIe", None), ("Tesla T4", None)],
)
def test_mfu_is_of_the_gpu_by_its_name(name: str, tflops: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = peak_flops(torch.device("cuda"))
    assert found == (None if tflops is None else tflops * 1e12)
    meter = SpeedMeter(4, torch.device("cuda"))
    figures = meter.step_ended(StepWork(1, 989 * 10**12), 1.0)
    assert figures.get("mfu") == (None if found is None else pytest.approx(989 * 1e12 / 4 / found))
    assert SpeedMeter(4, torch.device("cuda"), torch.float32).peak_flops is None


def test_a_cpu_has_no_mfu_and_a_plan_assumes_the_same_h100() -> None:
    assert peak_flops(CPU) is None
    assert PEAK_TFLOPS["H100"] == H100_TFLOPS
