"""Clocks of streams that know of each other what waits, events and the host told them. Pure Python."""

from tests.support.vector_clocks import Device, VectorClockAccelerator, VirtualEvent, VirtualStream


def two_streams() -> tuple[Device, VirtualStream, VirtualStream]:
    device = Device()
    return device, device.default, VirtualStream(device, "side")


def test_an_operation_is_known_to_its_own_stream_alone() -> None:
    _, computing, side = two_streams()
    moment = computing.launch()
    assert computing.knows(moment) and not side.knows(moment)


def test_a_wait_covers_what_was_launched_before_it_and_nothing_later() -> None:
    _, computing, side = two_streams()
    before = computing.launch()
    side.wait_stream(computing)
    after = computing.launch()
    assert side.knows(before) and not side.knows(after)
    assert not computing.knows(side.launch())  # a wait orders one direction


def test_waits_are_passed_on() -> None:
    device, computing, side = two_streams()
    third = VirtualStream(device, "third")
    moment = computing.launch()
    side.wait_stream(computing)
    third.wait_stream(side)
    assert third.knows(moment)


def test_an_event_keeps_the_time_of_its_record() -> None:
    device, computing, side = two_streams()
    event = VirtualEvent(device)
    before = computing.launch()
    event.record()
    after = computing.launch()
    side.wait_event(event)
    assert side.knows(before) and not side.knows(after)


def test_what_the_host_waited_for_lies_before_all_that_it_launches_later() -> None:
    device, computing, side = two_streams()
    moment = computing.launch()
    computing.synchronize()
    assert not side.knows(moment)
    side.launch()
    assert side.knows(moment)
    written = device.host.advance()  # by the host itself
    assert not side.knows(written)
    side.launch()
    assert side.knows(written)


def test_an_event_and_the_device_can_be_waited_for_by_the_host() -> None:
    device, _, side = two_streams()
    event = VirtualEvent(device)
    first = side.launch()
    event.record(side)
    second = side.launch()
    assert not event.query()
    event.synchronize()
    assert device.host.knows(first) and not device.host.knows(second)
    device.synchronize()
    assert device.host.knows(second)


def test_the_accelerator_runs_what_is_launched_in_a_context_on_its_stream() -> None:
    accelerator = VectorClockAccelerator(Device())
    side = accelerator.Stream()
    with accelerator.stream(side):
        assert accelerator.current_stream() is side
        moment = accelerator.current_stream().launch()
    assert accelerator.current_stream() is accelerator.default_stream() is not side
    assert not accelerator.default_stream().knows(moment)
    event = accelerator.Event()
    event.record(side)
    accelerator.default_stream().wait_event(event)
    assert accelerator.default_stream().knows(moment)
    assert not accelerator.is_synchronized_device() and not accelerator.resolves_data_dependency()
