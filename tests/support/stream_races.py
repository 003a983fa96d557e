"""Races between streams: two accesses to the same memory, one of them a write, that may run in any order on a GPU.

`Watch` sees every operation of torch in this process and every collective, asks which bytes it reads and writes, and
compares the moments of these accesses by the clocks of vector_clocks.py. It finds a race although the CPU computes
everything in order, whatever the values are.

What is modelled as on a GPU: a collective runs on a timeline of its process group, which waits for the current stream
when it is launched; the current stream waits for it when its handle does. A number that DeepSpeed reads makes the host
wait (this project reads none in a step on a GPU, see test_device_copies.py, but does where a CPU computes masks), and
so does a copy between host and device that is not `non_blocking`. Freed memory goes back to the stream that it was
allocated on, whose next allocation may take it, unless `record_stream` holds it back. Host memory is that which
DeepSpeed pins or the caller names, and what is computed from it alone.

What is not: kernels that torch does not dispatch, accesses from other threads, and, since both devices are the CPU
here, copies that `.to(device)` or `.cpu()` would make of a tensor that is there already; they would only make the host
wait more often.

Source: the idea and the rules for arguments are those of torch/cuda/_sanitizer.py.
"""

import functools
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.launch import ROOT
from tests.support.vector_clocks import Moment, Timeline, VectorClockAccelerator, VirtualStream

_READS_NO_VALUES = re.compile(r"aten::(new_.*|.*_like)")
_DEEPSPEED = str(Path(deepspeed.__file__).parent / "runtime")
_PLACES = (_DEEPSPEED, *(str(ROOT / name) for name in ("model", "pretrain", "tests")))
"""Folders of the code that is reported as the place of an operation."""
COLLECTIVES = {
    "all_gather_into_tensor": ("output_tensor", "input_tensor"),
    "all_gather": ("tensor_list", "tensor"),
    "reduce_scatter_tensor": ("output", "input"),
    "reduce_scatter": ("output", "input_list"),
    "all_reduce": ("tensor", "tensor"),
    "reduce": ("tensor", "tensor"),
    "broadcast": ("tensor", "tensor"),
}
"""Names of the arguments that a collective writes and reads."""


@dataclass(frozen=True)
class Access:
    """One operation's access to bytes `start` to `end` of a storage."""

    start: int
    end: int
    moment: Moment
    is_write: bool
    place: str
    """Operation, and where it was called."""

    def overlaps(self, other: "Access") -> bool:
        return self.start < other.end and other.start < self.end

    def covers(self, other: "Access") -> bool:
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True)
class Race:
    """Two accesses that may happen in any order."""

    first: str
    """The access that was launched first."""
    second: str


@dataclass
class Memory:
    """A storage: its latest accesses, and who may use it."""

    alive: StorageWeakRef
    owner: Timeline
    """The stream that allocated it."""
    is_host: bool
    accesses: list[Access] = field(default_factory=list)
    recorded: list[Timeline] = field(default_factory=list)
    """The streams whose use `record_stream` told to the allocator."""

    def add(self, access: Access) -> None:
        """Remember an access; forget those that any later access is ordered behind if it is behind this one."""
        self.accesses = [
            old
            for old in self.accesses
            if not access.covers(old)
            or not (access.is_write or (not old.is_write and old.moment.timeline == access.moment.timeline))
        ]
        self.accesses.append(access)

    def in_use(self) -> list[Access]:
        """Return the accesses that may still run when the allocator hands out the freed memory again.

        It waits for what its own stream and the recorded ones were given before.
        """
        waits = (self.owner, *self.recorded)
        return [access for access in self.accesses if not any(stream.knows(access.moment) for stream in waits)]


class Watch(TorchDispatchMode):
    """Finds races while it is active. Entered once per process, after `set_accelerator`."""

    def __init__(self, accelerator: VectorClockAccelerator):
        super().__init__()
        self.accelerator, self.device = accelerator, accelerator.virtual
        self.races = Counter[Race]()
        self.seen = Counter[str]()
        """Number of operations by the name of their timeline, and of collectives by their name."""
        self._memory: dict[int, Memory] = {}
        self._shared: dict[int, Memory] = {}
        """Those of it that other streams than the owner use."""
        self._freed: list[Memory] = []
        """Shared memory that was freed and not yet allocated again."""
        self._groups: dict[int, VirtualStream] = {}
        self._num_pinned, self._next_purge, self._is_inside_collective = 0, 1000, False

    def mark_host(self, tensors: list[Tensor]) -> None:
        """Take tensors for host memory, which the host has filled."""
        for tensor in tensors:
            self._memory[_key(tensor)] = Memory(StorageWeakRef(tensor.untyped_storage()), self.device.host, True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._is_inside_collective or func.namespace not in ("aten", "imglish"):
            return func(*args, **kwargs)
        self._mark_pinned()
        reads, writes, inputs = _accessed(func, args, kwargs)
        timeline = self._timeline([*reads, *writes])
        known = {_key(tensor) for tensor in inputs}
        is_from_host = bool(inputs) and all(self._memory_of(tensor, timeline).is_host for tensor in inputs)
        result = func(*args, **kwargs)
        fresh = [tensor for tensor in _tensors(result) if _key(tensor) not in known]
        if fresh:
            self._check_reuse(timeline)
        if reads or writes or fresh:
            self._run(timeline, reads, [*writes, *fresh], func._schema.name.removeprefix("aten::"))
        for tensor in fresh:
            self._memory_of(tensor, timeline).is_host = is_from_host
        self._wait_as_torch_does(func, args, kwargs, [*reads, *writes], fresh)
        return result

    def collective(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a collective on the timeline of its process group."""
        bound = _signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        outputs, inputs = (bound.arguments[name] for name in COLLECTIVES[original.__name__])
        group, launching = self._group(bound.arguments["group"]), self.device.current
        group.wait_stream(launching)
        self._run(group, _tensors(inputs), _tensors(outputs), original.__name__)
        self.seen[original.__name__] += 1
        with self.inside_collective():
            work = original(*args, **kwargs)
        if bound.arguments["async_op"]:
            return _Handle(work, self, group.clock())
        launching.wait_stream(group)
        return work

    @contextmanager
    def inside_collective(self) -> Iterator[None]:
        """Ignore the operations that gloo performs in a collective or in waiting for it."""
        before, self._is_inside_collective = self._is_inside_collective, True
        try:
            yield
        finally:
            self._is_inside_collective = before

    def record_stream(self, tensor: Tensor, stream: VirtualStream) -> None:
        """Tell the allocator that a stream uses a tensor."""
        self._memory_of(tensor, self.device.current).recorded.append(stream)

    def _timeline(self, tensors: list[Tensor]) -> Timeline:
        """Return the timeline of an operation: the host's if all is in host memory, and no stream was entered.

        In a stream DeepSpeed moves such tensors to the device first, which changes nothing here.
        """
        all_host = bool(tensors) and all(self._memory_of(t, self.device.current).is_host for t in tensors)
        return self.device.host if all_host and not self.device.entered else self.device.current

    def _run(self, timeline: Timeline, reads: list[Tensor], writes: list[Tensor], operation: str) -> None:
        """Put an operation on a timeline, and compare its accesses with earlier ones."""
        moment = timeline.launch() if isinstance(timeline, VirtualStream) else timeline.advance()
        self.seen[timeline.name] += 1
        place = f"{operation} in {_caller()[0]}"
        for tensor, is_write in [*((t, False) for t in reads), *((t, True) for t in writes)]:
            memory = self._memory_of(tensor, timeline)
            access = Access(*_extent(tensor), moment, is_write, place)
            for old in memory.accesses:
                if (is_write or old.is_write) and old.overlaps(access) and not timeline.knows(old.moment):
                    self._report(old, access)
            memory.add(access)
            if timeline is not memory.owner:
                self._shared[_key(tensor)] = memory

    def _wait_as_torch_does(self, func: Any, args: Any, kwargs: Any, used: list[Tensor], fresh: list[Tensor]) -> None:
        """Make the host wait for the current stream if the operation would."""
        name = func._schema.name
        if name == "aten::_local_scalar_dense" and _caller()[1] == _DEEPSPEED:
            self.device.current.synchronize()
        if name == "aten::_to_copy" and "device" in kwargs and [t.dtype for t in used] == [t.dtype for t in fresh]:
            for tensor in fresh:  # .to("cpu", copy=True): .to(device) of a tensor that is there makes no copy
                self._memory_of(tensor, self.device.host).is_host = True
        if name in ("aten::_to_copy", "aten::copy_") and not (kwargs.get("non_blocking") or args[2:] == (True,)):
            kinds = {self._memory_of(tensor, self.device.current).is_host for tensor in (*used, *fresh)}
            if len(kinds) == 2:
                self.device.current.synchronize()

    def _report(self, old: Access, new: Access) -> None:
        def words(access: Access) -> str:
            return f"{access.moment.timeline} {'writes' if access.is_write else 'reads'}: {access.place}"

        self.races[Race(words(old), words(new))] += 1

    def _check_reuse(self, timeline: Timeline) -> None:
        """Report freed memory that this allocation may take while another stream still uses it."""
        for key in [key for key, memory in self._shared.items() if memory.alive.expired()]:
            memory = self._shared.pop(key)
            if not memory.is_host:  # torch's allocator of page-locked memory waits for the copies that use it
                self._freed.append(memory)
        for memory in [memory for memory in self._freed if memory.owner is timeline]:
            self._freed.remove(memory)
            for use in memory.in_use():
                self._report(use, Access(use.start, use.end, timeline.latest, True, "new memory, after a free"))

    def _mark_pinned(self) -> None:
        pinned = self.accelerator.pinned
        if len(pinned) > self._num_pinned:
            self.mark_host(pinned[self._num_pinned :])
            self._num_pinned = len(pinned)

    def _memory_of(self, tensor: Tensor, owner: Timeline) -> Memory:
        key = _key(tensor)
        if key not in self._memory:
            if len(self._memory) > self._next_purge:
                self._memory = {key: memory for key, memory in self._memory.items() if not memory.alive.expired()}
                self._next_purge = 2 * len(self._memory) + 1000
            self._memory[key] = Memory(StorageWeakRef(tensor.untyped_storage()), owner, False)
        return self._memory[key]

    def _group(self, group: Any) -> VirtualStream:
        key = id(group if group is not None else dist.group.WORLD)
        if key not in self._groups:
            self._groups[key] = VirtualStream(self.device, f"process group {len(self._groups)}")
        return self._groups[key]


class _Handle:
    """A collective under way."""

    def __init__(self, work: Any, watch: Watch, clock: dict[str, int]):
        self._work, self._watch, self._clock = work, watch, clock

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self._watch.device.current.learn(self._clock)
        with self._watch.inside_collective():
            return self._work.wait(*args, **kwargs)

    def is_completed(self) -> bool:
        return self._work.is_completed()


@contextmanager
def watched(accelerator: VectorClockAccelerator) -> Iterator[Watch]:
    """Watch all operations, collectives and `record_stream`. Entered before DeepSpeed's communication starts."""
    watch = Watch(accelerator)
    originals = {name: getattr(dist, name) for name in COLLECTIVES}
    record_stream = torch.Tensor.record_stream
    try:
        for name, original in originals.items():
            wrapped = functools.wraps(original)(functools.partial(watch.collective, original))
            for module in (dist, dist.distributed_c10d):
                setattr(module, name, wrapped)
        torch.Tensor.record_stream = lambda tensor, stream: watch.record_stream(tensor, stream)  # type: ignore
        with watch:
            yield watch
    finally:
        torch.Tensor.record_stream = record_stream  # type: ignore[method-assign]
        for name, original in originals.items():
            for module in (dist, dist.distributed_c10d):
                setattr(module, name, original)


def _key(tensor: Tensor) -> int:
    """Return the address of a storage, which no other has as long as a weak reference to it is kept."""
    return tensor.untyped_storage()._cdata


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor in its storage, and the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start, itemsize = int(tensor.storage_offset()), tensor.itemsize
    return start * itemsize, (start + int(last) + 1) * itemsize


@functools.cache
def _kinds(func: Any) -> tuple[tuple[str, bool, bool], ...]:
    """Return the name of each argument of an operation, whether its tensors are read and whether they are written."""
    reads_values = not _READS_NO_VALUES.fullmatch(func._schema.name)
    return tuple(
        (argument.name, reads_values and argument.alias_info is None, _is_written(argument))
        for argument in func._schema.arguments
    )


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _accessed(func: Any, args: Any, kwargs: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the tensors that an operation reads, those that it writes, and all that it is given."""
    reads: list[Tensor] = []
    writes: list[Tensor] = []
    others: list[Tensor] = []
    for number, (name, is_read, is_written) in enumerate(_kinds(func)):
        value = args[number] if number < len(args) else kwargs.get(name)
        if isinstance(value, (Tensor, list, tuple)):
            (reads if is_read else writes if is_written else others).extend(_tensors(value))
    return reads, writes, [*reads, *writes, *others]


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of an argument or result."""
    if isinstance(value, Tensor):
        return [value] if value.device.type == "cpu" and value.numel() > 0 else []
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (list, tuple)) else []


def _caller() -> tuple[str, str]:
    """Return the innermost line of DeepSpeed or of this project that called torch, and its folder in _PLACES."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        folder = next((folder for folder in _PLACES if path.startswith(folder)), "")
        if folder and path != __file__:
            return f"{Path(path).name}:{frame.f_lineno} ({frame.f_code.co_name})", folder
        frame = frame.f_back
    return "", ""
