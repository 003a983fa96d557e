"""The wait that DeepSpeed leaves out under ZeRO-3: a gather of weights waits for the update of these weights.

With `overlap_comm`, ZeRO-3 gathers weights on a stream of their own, beside the stream that computes. The computing
stream waits for the gathers, but in DeepSpeed 0.19.8 nothing makes the gathers wait for the computing stream. The
optimizer writes this rank's part of the weights there, and so does the loading of a checkpoint; the host goes on to the
next forward while the device still writes. A gather may then read the weights of the step before, or some of each,
without an error. docs/stream_order.md has the examination, tests/runs/test_stream_order.py repeats it.

Source: DeepSpeed 0.19.8, runtime/zero/partitioned_param_coordinator.py (`__all_gather_params_`,
`_fetch_sub_module_impl`) and runtime/zero/stage3.py (`_reassign_or_swap_out_partitioned_parameters`,
`_rigid_load_state_dict`).
"""

import functools
from collections.abc import Callable
from typing import Any

import deepspeed
from deepspeed.accelerator import get_accelerator

from pretrain.survival.agreement import FatalRunError

WRITERS = ("step", "load_state_dict")
"""Methods of DeepSpeed's optimizer that write weights which later forwards gather."""
_STREAM = "_PartitionedParameterCoordinator__allgather_stream"
"""The private attribute of DeepSpeed's coordinator that holds the stream; None on devices without streams."""


def order_gathers(engine: deepspeed.DeepSpeedEngine) -> None:
    """Make ZeRO-3's gathers wait for each write of the weights, from now on. Does nothing under other stages.

    Called once per engine, when its first weights are written. The wait is enqueued on the device: the host does not
    wait, and the next step's inputs are still computed beside the gathers. Raises FatalRunError if this version of
    DeepSpeed keeps the stream elsewhere.
    """
    if engine.zero_optimization_stage() < 3:
        return  # these gather on the computing stream
    wait_for_writes(engine)
    if get_accelerator().is_synchronized_device():
        return
    for name in WRITERS:
        method = getattr(engine.optimizer, name)
        setattr(engine.optimizer, name, _followed_by(method, functools.partial(wait_for_writes, engine)))


def wait_for_writes(engine: deepspeed.DeepSpeedEngine) -> None:
    """Make ZeRO-3's later gathers wait for the weights that were written up to now, as by a method of WRITERS.

    Raises FatalRunError as `order_gathers` does.
    """
    gathering = _gathering_stream(engine)
    if not get_accelerator().is_synchronized_device():  # a CPU has no streams: each operation ends before the next
        gathering.wait_stream(get_accelerator().current_stream())


def _gathering_stream(engine: deepspeed.DeepSpeedEngine) -> Any:
    """Return the stream on which ZeRO-3 gathers, None on a CPU. Raises FatalRunError if it is not found."""
    try:
        stream = getattr(engine.optimizer.parameter_offload.get_param_coordinator(), _STREAM)
    except AttributeError as error:
        raise FatalRunError(_not_found(f"has no {error.name}")) from error
    if stream is None and not get_accelerator().is_synchronized_device():
        raise FatalRunError(_not_found("has no stream for gathers on this device"))
    return stream


def _not_found(reason: str) -> str:
    return (
        f"DeepSpeed {deepspeed.__version__} {reason}: ZeRO-3 might gather weights before they are updated; install "
        "deepspeed==0.19.8 or choose ds_configs/zero2.json"
    )


def _followed_by(method: Callable[..., Any], action: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def both(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        action()
        return result

    return both
