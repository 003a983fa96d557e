"""Seconds of a step by part, compared with those computed by hand."""

from dataclasses import fields, replace

import pytest

from pretrain.planning.assumptions import GPUS, Assumptions, Gpu
from pretrain.planning.roofline import (
    ASSUMED,
    COMMUNICATION,
    GRADIENTS,
    OPTIMIZER,
    WAITING,
    MicroStepWork,
    Operation,
    PhaseSharding,
    PhaseWork,
    ShardingWork,
    StepTime,
    exposed_seconds,
    gpu_seconds,
    host_seconds,
    predict_step,
)

GPU = Gpu(peak_tflops=1.0, float32_tflops=0.5, memory_tb=1.0, memory_gb=80.0)
ASSUMPTIONS = Assumptions(
    product_share=0.5, attention_forward_share=0.2, attention_backward_share=0.1, copy_share=1.0, norms_share=0.5,
    copies_share=0.5, other_share=0.25, activation_forward_tb=0.4, activation_backward_tb=2.0, optimizer_bytes=85.0,
    gradient_bytes=17.0, accumulated_gradient_bytes=8.5, overlap=1.0, operation_us=10.0, launch_us=20.0,
    gather_us=100.0, gather_slice_us=2.0,
    bucket1_us=1000.0, bucket2_us=2000.0, bucket3_us=50.0, reduce_slice_us=1.0, step_us=1000.0,
)  # fmt: skip
NO_SHARDING = PhaseSharding()


def phase(seconds: float) -> PhaseWork:
    """Return products that take these seconds at half of a peak of 1e12, and 1,000 operations of the host."""
    return PhaseWork({Operation("products", int(seconds * 0.5e12), 0): 1}, 1000, 0)


def sharding(stage: int = 3, **settings: object) -> ShardingWork:
    alone = ShardingWork(
        num_parameters=0, stage=stage, num_ranks=1, num_updated=0,
        forward=NO_SHARDING, backward=NO_SHARDING, last_backward=NO_SHARDING,
    )  # fmt: skip
    return replace(alone, **settings)  # type: ignore[arg-type]


def predicted(work: MicroStepWork, added: ShardingWork, num_micro_steps: int = 1) -> StepTime:
    return predict_step(work, added, num_micro_steps, 1e12, GPU, ASSUMPTIONS)


def test_an_operation_takes_its_flops_or_its_bytes_whichever_is_longer() -> None:
    products = Operation("products", 10**12, 10**12), Operation("products", 10**12, 3 * 10**12)
    assert gpu_seconds(PhaseWork({products[0]: 1}, 0, 0), GPU, ASSUMPTIONS) == {"products": 2.0}
    assert gpu_seconds(PhaseWork({products[1]: 2}, 0, 0), GPU, ASSUMPTIONS) == {"products": 6.0}


def test_each_part_has_its_own_speed() -> None:
    operations = {
        Operation("attention forward", 10**12, 0): 1,  # a fifth of the peak
        Operation("attention backward", 10**12, 0): 1,
        Operation("activation forward", 0, 10**12): 1,
        Operation("activation backward", 0, 85 * 10**10): 1,  # 2 TB/s is more than 0.85 of a copy
        Operation("norms and sums", 0, 10**12): 1,
        Operation("copies", 0, 10**12): 1,
        Operation("other operations", 0, 10**12): 1,
    }
    assert gpu_seconds(PhaseWork(operations, 0, 0), GPU, ASSUMPTIONS) == pytest.approx(
        {
            "attention forward": 5.0, "attention backward": 10.0, "activation forward": 2.5, "activation backward": 1.0,
            "norms and sums": 2.0, "copies": 2.0, "other operations": 4.0,
        }
    )  # fmt: skip


def test_the_host_works_by_operations_launches_tensors_and_slices() -> None:
    work = PhaseWork({}, 1000, 100)  # 10 ms and 2 ms
    gathering = PhaseSharding(num_gathered=10, gather_ranks=50)  # 10 x (100 + 50 x 2) us = 2 ms
    assert host_seconds(work, gathering, 3, ASSUMPTIONS) == pytest.approx(0.014)
    reducing = PhaseSharding(num_reduced=10, reduce_ranks=50)  # 10 x (50 + 50) us = 1 ms
    assert host_seconds(work, reducing, 3, ASSUMPTIONS) == pytest.approx(0.013)
    by_stage = [host_seconds(work, PhaseSharding(num_reduced=1), stage, ASSUMPTIONS) for stage in (1, 2)]
    assert by_stage == pytest.approx([0.013, 0.014])
    assert host_seconds(work, gathering, 3, replace(ASSUMPTIONS, host_speed=2.0)) == pytest.approx(0.007)


def test_communication_is_hidden_as_long_as_the_gpu_computes() -> None:
    assert exposed_seconds(3.0, 2.0, 1.0) == 0.0
    assert exposed_seconds(3.0, 5.0, 1.0) == 2.0
    assert exposed_seconds(3.0, 2.0, 0.0) == 2.0
    assert exposed_seconds(3.0, 8.0, 0.5) == 5.0  # 4 s beside 3 s, and 4 s after them


def test_a_step_adds_up() -> None:
    added = sharding(
        num_parameters=10**9,
        num_ranks=2,
        forward=PhaseSharding(communication=1.5),
        backward=PhaseSharding(communication=1.0),
        last_backward=PhaseSharding(communication=3.0, num_reduced=1),
        tail_seconds=0.25,
        after_seconds=0.5,
    )
    time = predicted(MicroStepWork(phase(1.0), phase(2.0)), added, num_micro_steps=2)
    assert time.parts["products"] == pytest.approx(6.0)
    # 1e9 x 17 bytes at 0.85 TB/s in the micro-step that reduces, 8.5 in the other; half of 1e9 x 85 bytes
    assert time.parts[GRADIENTS] == pytest.approx(0.03) and time.parts[OPTIMIZER] == pytest.approx(0.05)
    # forward 0.5 s twice; backward of 2.02 s hides 1 s, then all but 0.98 s of 3 s; the bucket and the gather
    assert time.parts[COMMUNICATION] == pytest.approx(2 * 0.5 + 0.98 + 0.25 + 0.5)
    assert time.parts[WAITING] == 0.0
    assert time.communication == pytest.approx(2 * 1.5 + 1.0 + 3.0 + 0.25 + 0.5)
    assert time.host == pytest.approx(4 * 0.01 + 50e-6)  # one gradient is put into a bucket
    assert time.seconds == pytest.approx(6.0 + 0.03 + 0.05 + time.parts[COMMUNICATION])
    assert time.compute == pytest.approx(6.0 + 0.03 + 0.05)
    assert time.mfu == pytest.approx(1 / time.seconds)


def test_forwards_again_and_the_loss_of_the_global_batch_add_to_the_step() -> None:
    work = MicroStepWork(phase(1.0), phase(2.0), once=phase(0.25))  # twice as long in float32
    added = sharding(forward=PhaseSharding(communication=1.5), num_forwards_again=1, loss_seconds=0.125)
    time = predicted(work, added, num_micro_steps=2)
    assert time.parts["products"] == pytest.approx(2 * (1 + 2) + 1 + 0.5)
    assert time.parts[COMMUNICATION] == pytest.approx(3 * 0.5 + 0.125)
    assert time.communication == pytest.approx(3 * 1.5 + 0.125)
    assert time.host == pytest.approx((4 + 1 + 1) * 0.01) and time.parts[WAITING] == 0.0


def test_the_average_of_the_weights_is_read_and_written_once_per_step() -> None:
    added = sharding(num_parameters=10**9, num_ranks=2)
    plain, averaged = (
        predicted(MicroStepWork(phase(1.0), phase(2.0)), replace(added, keeps_average=keeps)).parts[OPTIMIZER]
        for keeps in (False, True)
    )
    assert averaged / plain == pytest.approx((85 + 12) / 85)  # reads both in float32, writes one


def test_a_gpu_waits_for_a_host_that_is_slower() -> None:
    work = MicroStepWork(phase(0.004), phase(0.008))  # the host needs 10 ms for each
    time = predicted(work, sharding(num_updated=5))  # and 5 ms for the optimizer
    assert time.parts[WAITING] == pytest.approx(0.008 + 0.005) and time.seconds == pytest.approx(0.025)
    assert time.host_share == pytest.approx(13 / 25)


def test_a_host_that_is_ahead_in_forward_has_more_time_in_backward() -> None:
    work = MicroStepWork(phase(0.013), phase(0.008))
    assert predicted(work, sharding()).parts[WAITING] == 0.0


def test_under_hpz_forward_takes_the_host_and_the_gpu_in_turns() -> None:
    work = MicroStepWork(phase(0.013), phase(0.008))
    time = predicted(work, sharding(waits_in_forward=True))
    assert time.parts[WAITING] == pytest.approx(0.010 + 0.002)


def test_every_assumption_on_speed_belongs_to_a_part() -> None:
    named = {name for names in ASSUMED.values() for name in names}
    assert named == {field.name for field in fields(Assumptions)} - {"reserve_gb"}


def test_a_gpu_has_a_peak_for_each_precision() -> None:
    h100 = GPUS["h100"]
    assert h100.in_precision("bfloat16").peak_tflops == 989 and h100.in_precision("float32").peak_tflops == 67
