"""Races that are there are found, and waits that are there are seen. CPU, under a second."""

import gc
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from model.expert_rows import ExpertRows
from model.kernels.expert_linear import forward_products
from tests.support.mistakes import only_rank
from tests.support.stream_races import Watch, watched
from tests.support.vector_clocks import Device, VectorClockAccelerator, VirtualStream


@pytest.fixture
def watch() -> Iterator[Watch]:
    with watched(VectorClockAccelerator(Device())) as watch:
        yield watch


def side_stream(watch: Watch) -> VirtualStream:
    return watch.accelerator.Stream()


def computing_stream(watch: Watch) -> VirtualStream:
    return watch.device.default


def test_reading_what_another_stream_writes_is_a_race_unless_it_waits(watch: Watch) -> None:
    weights, side = torch.zeros(4), side_stream(watch)
    weights.add_(1)
    with watch.accelerator.stream(side):
        weights.clone()
    (race,) = watch.races
    assert race.first.startswith("computing stream writes: add_ in test_stream_races.py")
    assert race.second.startswith("side stream 1 reads: clone in test_stream_races.py")
    weights.add_(1)
    watch.races.clear()
    side.wait_stream(computing_stream(watch))
    with watch.accelerator.stream(side):
        weights.clone()
    assert not watch.races


def test_overwriting_what_another_stream_reads_is_a_race_unless_it_waits(watch: Watch) -> None:
    gradient, side = torch.zeros(4), side_stream(watch)
    side.wait_stream(computing_stream(watch))
    with watch.accelerator.stream(side):
        gradient.clone()
    gradient.zero_()
    assert [race.second.split(":")[0] for race in watch.races] == ["computing stream writes"]
    watch.races.clear()
    computing_stream(watch).wait_stream(side)
    gradient.zero_()
    assert not watch.races


def test_operations_of_the_project_are_seen_too(watch: Watch) -> None:
    x, weight, rows = torch.ones(3, 4), torch.zeros(2, 4), ExpertRows((3,), (0,))
    with watch.accelerator.stream(side_stream(watch)):
        weight.add_(1)
    watch.races.clear()
    forward_products(x, [weight], rows)
    assert any("expert_products" in race.second for race in watch.races)


def test_two_readers_do_not_race_and_neither_do_writers_of_parts_that_do_not_overlap(watch: Watch) -> None:
    flat, side = torch.zeros(8), side_stream(watch)
    side.wait_stream(computing_stream(watch))
    flat.clone()
    with watch.accelerator.stream(side):
        flat.clone()
    assert not watch.races
    computing_stream(watch).wait_stream(side)
    side.wait_stream(computing_stream(watch))
    flat[4:].zero_()
    with watch.accelerator.stream(side):
        flat[:4].zero_()
    assert not watch.races
    with watch.accelerator.stream(side):
        flat[3:5].zero_()
    assert len(watch.races) == 1


def test_backward_is_watched_too(watch: Watch) -> None:
    weight, side = torch.zeros(4, requires_grad=True), side_stream(watch)
    (weight * torch.ones(4)).sum().backward()
    assert weight.grad is not None
    with watch.accelerator.stream(side):
        weight.grad.clone()
    assert len(watch.races) == 1


def test_freed_memory_is_reused_by_the_stream_that_allocated_it(watch: Watch) -> None:
    side = side_stream(watch)
    for is_recorded in (False, True):
        gradient = torch.zeros(4)
        side.wait_stream(computing_stream(watch))
        with watch.accelerator.stream(side):
            gradient.clone()
        if is_recorded:
            gradient.record_stream(side)  # type: ignore[arg-type]
        del gradient
        gc.collect()
        torch.zeros(4)
        assert [race.second for race in watch.races] == (
            [] if is_recorded else ["computing stream writes: new memory, after a free"]
        )
        watch.races.clear()


def test_a_copy_to_the_host_is_waited_for_if_it_blocks(watch: Watch) -> None:
    host = watch.accelerator.pin_memory(torch.zeros(4))
    gradient = torch.zeros(4)
    host.copy_(gradient, non_blocking=True)
    host.mul_(2)  # on the host, which does not know of the copy
    assert [race.second.split(":")[0] for race in watch.races] == ["host writes"]
    watch.races.clear()
    host.copy_(gradient)
    host.mul_(2)
    snapshot = gradient.to("cpu", copy=True)
    snapshot.mul_(2)
    assert not watch.races


def test_the_host_writes_what_a_copy_to_the_device_still_reads(watch: Watch) -> None:
    host = watch.accelerator.pin_memory(torch.zeros(4))
    device = torch.zeros(4)
    host.mul_(2)
    device.copy_(host, non_blocking=True)
    assert not watch.races
    host.mul_(2)
    assert len(watch.races) == 1


def test_a_collective_is_ordered_behind_its_launch_and_before_its_wait(watch: Watch) -> None:
    with only_rank():
        side, total = side_stream(watch), torch.ones(4)
        work = dist.all_reduce(total, async_op=True)
        assert not watch.races and work is not None
        total.clone()  # before the wait
        assert len(watch.races) == 1
        watch.races.clear()
        work.wait()
        total.clone()
        assert not watch.races
        with watch.accelerator.stream(side):
            dist.all_reduce(total)
        assert len(watch.races) > 0  # launched on a stream that did not wait for the sum
        assert watch.seen["all_reduce"] == 2


def test_everything_is_as_before_afterwards() -> None:
    before = dist.all_reduce, torch.Tensor.record_stream
    with watched(VectorClockAccelerator(Device())):
        assert dist.all_reduce is not before[0]
    assert (dist.all_reduce, torch.Tensor.record_stream) == before
