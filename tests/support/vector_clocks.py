"""An accelerator without a GPU whose streams keep vector clocks, so that missing waits between streams can be seen.

Computation runs on the CPU, one operation after the other, but every operation gets a moment on the timeline of the
stream that it was launched on. A timeline knows which moments of others lie before its next operation: those that
`wait_stream`, events and synchronizing told it, and all that the host knew when it launched the operation. Two
operations of which neither is known to the other may run in any order, or at once, on a GPU.

Source: Lamport, "Time, clocks, and the ordering of events in a distributed system" (1978); Mattern, "Virtual time and
global states of distributed systems" (1989).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import Tensor

Clock = dict[str, int]
"""Number of operations of each timeline, by its name, that lie before a point in time."""


@dataclass(frozen=True)
class Moment:
    """One operation of a timeline."""

    timeline: str
    time: int


class Timeline:
    """Work that runs in its order: that of a stream, of the host, or of a process group."""

    def __init__(self, name: str):
        self.name, self.time = name, 0
        self._learned: Clock = {}

    def clock(self) -> Clock:
        """Return what lies before the next operation."""
        return self._learned | {self.name: self.time}

    def learn(self, clock: Clock) -> None:
        """Put a point in time before the next operation."""
        for name, time in clock.items():
            if time > self._learned.get(name, 0):
                self._learned[name] = time

    def knows(self, moment: Moment) -> bool:
        """Return whether an operation lies before the next one."""
        own = moment.timeline == self.name
        return (self.time if own else self._learned.get(moment.timeline, 0)) >= moment.time

    @property
    def latest(self) -> Moment:
        """The last operation."""
        return Moment(self.name, self.time)

    def advance(self) -> Moment:
        """Run an operation."""
        self.time += 1
        return self.latest


@dataclass
class Device:
    """A host and the streams of its device."""

    host: Timeline = field(default_factory=lambda: Timeline("host"))
    streams: list["VirtualStream"] = field(default_factory=list)
    entered: list["VirtualStream"] = field(default_factory=list)
    """Streams whose contexts are open, the current one last."""

    def __post_init__(self) -> None:
        self.default = VirtualStream(self, "computing stream")

    @property
    def current(self) -> "VirtualStream":
        return self.entered[-1] if self.entered else self.default

    def synchronize(self) -> None:
        """Make the host wait for all streams."""
        for stream in self.streams:
            stream.synchronize()


class VirtualStream(Timeline):
    """A stream with the methods of torch.cuda.Stream that DeepSpeed calls."""

    def __init__(self, device: Device, name: str):
        super().__init__(name)
        self.device = device
        device.streams.append(self)

    def launch(self) -> Moment:
        """Run an operation that the host launches: all that the host knows lies before it."""
        self.learn(self.device.host.clock())
        return self.advance()

    def wait_stream(self, other: "VirtualStream") -> None:
        self.learn(other.clock())

    def wait_event(self, event: "VirtualEvent") -> None:
        self.learn(event.recorded)

    def synchronize(self) -> None:
        self.device.host.learn(self.clock())


class VirtualEvent:
    """An event with the methods of torch.cuda.Event that DeepSpeed calls."""

    def __init__(self, device: Device):
        self.device = device
        self.recorded: Clock = {}

    def record(self, stream: VirtualStream | None = None) -> None:
        self.recorded = (stream or self.device.current).clock()

    def synchronize(self) -> None:
        self.device.host.learn(self.recorded)

    def query(self) -> bool:
        """Return False: the device may be as slow as it can be."""
        return False


class VectorClockAccelerator(CPU_Accelerator):  # type: ignore[misc]
    """DeepSpeed's accelerator of a virtual device: a CPU that claims to have streams."""

    def __init__(self, device: Device):
        super().__init__()
        self.virtual = device
        self.pinned: list[Tensor] = []
        """Tensors in page-locked host memory, which copies read and write without waiting."""

    def is_synchronized_device(self) -> bool:
        return False

    def resolves_data_dependency(self) -> bool:
        return False

    def handles_memory_backpressure(self) -> bool:
        return False

    def Stream(self, *arguments: Any, **options: Any) -> VirtualStream:
        return VirtualStream(self.virtual, f"side stream {len(self.virtual.streams)}")

    def Event(self, *arguments: Any, **options: Any) -> VirtualEvent:
        return VirtualEvent(self.virtual)

    @contextmanager
    def stream(self, stream: VirtualStream) -> Iterator[None]:
        self.virtual.entered.append(stream)
        try:
            yield
        finally:
            self.virtual.entered.pop()

    def current_stream(self, device_index: int | None = None) -> VirtualStream:
        return self.virtual.current

    def default_stream(self, device_index: int | None = None) -> VirtualStream:
        return self.virtual.default

    def synchronize(self, device_index: int | None = None) -> None:
        self.virtual.synchronize()

    def pin_memory(self, tensor: Tensor, make_copy: bool = True, match_shape: bool = True) -> Tensor:
        self.pinned.append(tensor)
        return tensor
