"""The wait of gathers for writes of the weights, on an engine of a virtual device. CPU, under a second."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from pretrain.engine.gather_order import WRITERS, order_gathers
from pretrain.survival.agreement import FatalRunError
from tests.support.vector_clocks import Device, Moment, VectorClockAccelerator, VirtualStream

STREAM = "_PartitionedParameterCoordinator__allgather_stream"


@pytest.fixture
def device() -> Iterator[Device]:
    before, device = get_accelerator(), Device()
    set_accelerator(VectorClockAccelerator(device))
    yield device
    set_accelerator(before)


class WritingOptimizer:
    """DeepSpeed's optimizer, as far as it writes weights: each write is an operation of the current stream."""

    def __init__(self, device: Device, coordinator: Any):
        self.device = device
        self.parameter_offload = SimpleNamespace(get_param_coordinator=lambda: coordinator)

    def step(self) -> Moment:
        return self.device.current.launch()

    def load_state_dict(self, states: list[int], load_optimizer_states: bool = True) -> Moment:
        assert states == [1] and not load_optimizer_states
        return self.device.current.launch()


def engine_of(device: Device, coordinator: dict[str, Any], stage: int = 3) -> Any:
    optimizer = WritingOptimizer(device, SimpleNamespace(**coordinator))
    return SimpleNamespace(optimizer=optimizer, zero_optimization_stage=lambda: stage)


def test_gathers_know_of_the_weights_as_built_and_of_every_later_write(device: Device) -> None:
    gathering = VirtualStream(device, "gathers")
    engine = engine_of(device, {STREAM: gathering})
    built = device.current.launch()
    assert not gathering.knows(built)
    order_gathers(engine)
    assert gathering.knows(built)
    assert gathering.knows(engine.optimizer.step())
    assert gathering.knows(engine.optimizer.load_state_dict([1], load_optimizer_states=False))
    assert not gathering.knows(device.current.launch())  # the step's inputs are computed beside the gathers


def test_other_stages_and_cpus_are_left_as_they_are(device: Device) -> None:
    engine = engine_of(device, {}, stage=2)
    order_gathers(engine)
    assert not set(WRITERS) & set(vars(engine.optimizer))
    set_accelerator(CPU_Accelerator())
    engine = engine_of(device, {STREAM: None})
    order_gathers(engine)
    assert not set(WRITERS) & set(vars(engine.optimizer))


@pytest.mark.parametrize(
    ("coordinator", "reason"),
    [
        ({}, f"has no {STREAM}"),
        ({STREAM: None}, "has no stream for gathers on this device"),
    ],
)
def test_a_deepspeed_that_keeps_the_stream_elsewhere_is_refused(
    coordinator: dict[str, None], reason: str, device: Device
) -> None:
    with pytest.raises(FatalRunError, match=f"^DeepSpeed .* {reason}: ZeRO-3 might gather weights before they are"):
        order_gathers(engine_of(device, coordinator))
