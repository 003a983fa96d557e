"""A recipe on more and more GPUs, on paper.

Seconds per step follow from the operations of the model, an assumed MFU and a given network; nothing here was measured.
The global batch stays the same, so each GPU gets fewer samples the more GPUs there are.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from pretrain.config.run_config import EncoderRunConfig
from pretrain.engine.memory_config import check_memory_config, read_memory_config
from pretrain.planning.kinds import kind_of
from pretrain.planning.options import PUBLISHED_MFU, ScalingOptions
from pretrain.planning.stages import GPUS_PER_NODE, fitting_settings, step_traffic
from pretrain.planning.traffic import Network


@dataclass(frozen=True)
class Machine:
    """GPUs and the network between them."""

    mfu: float
    peak_tflops: float
    gpu_gb: float
    reserve_gb: float
    """Memory of a GPU that is left free, in 1e9 bytes."""
    network: Network

    @property
    def room_gb(self) -> float:
        """Memory of a GPU that a setting may fill, in 1e9 bytes."""
        return max(0.0, self.gpu_gb - self.reserve_gb)


@dataclass(frozen=True)
class TimedSetting:
    """A setting that fits, and its communication."""

    name: str
    micro_steps: int
    memory: int
    """Bytes per rank."""
    seconds: float
    """Seconds of communication per step."""


def machine_of(options: ScalingOptions) -> Machine:
    """Return the machine that the options of pretrain.scaling describe."""
    network = Network(
        within_gb_per_second=options.within_gb,
        between_gb_per_second=options.between_gb,
        hop_microseconds=options.hop_us,
    )
    return Machine(options.mfu, options.peak_tflops, options.gpu_gb, options.reserve_gb, network)


def scaling(config: EncoderRunConfig, machine: Machine) -> str:
    """Return a table with its assumptions above and its limits below.

    Raises ValueError if the batch does not divide by 8 ranks.
    """
    memory_config = read_memory_config(config.deepspeed_config)
    check_memory_config(config, memory_config, GPUS_PER_NODE)
    most = math.gcd(*vars(config.samples_per_step).values())
    counts = [8 * 2**i for i in range(8) if most % (8 * 2**i) == 0]
    if not counts:
        raise ValueError(f"a step of {config.samples_per_step} does not divide by 8 ranks; change it")
    lines = [*assumptions(config, machine), "", header()]
    limits = []
    for num_ranks in counts:
        compute = compute_seconds(config, num_ranks, machine)
        settings = timed_settings(config, memory_config, num_ranks, machine)
        if not settings:
            limits.append(f"{num_ranks} GPUs: {machine.room_gb:g} GB hold no setting; a smaller model or a larger GPU.")
            continue
        lines.append(row(config, num_ranks, compute, settings))
        limits += [f"{num_ranks} GPUs: {limit}" for limit in what_breaks(num_ranks, most, compute, settings)]
    return "\n".join([*lines, "", *limits])


def assumptions(config: EncoderRunConfig, machine: Machine) -> list[str]:
    """Return the lines above the table."""
    network, num_flops = machine.network, kind_of(config).step_flops(config)
    return [
        f"{config.samples_per_step.total} samples a step, the longest, {num_flops / 1e15:.2f} PFLOP; GPUs of "
        f"{machine.peak_tflops:g} TFLOP/s and {machine.gpu_gb:g} GB with {machine.reserve_gb:g} GB in reserve, "
        f"{network.gpus_per_node} a node.",
        f"Assumed, not measured: MFU {machine.mfu:g} (published for 2.7B on 8 H100: {PUBLISHED_MFU}); "
        f"{network.within_gb_per_second:g} GB/s a GPU within a node, {network.between_gb_per_second:g} GB/s a GPU "
        f"between nodes, {network.hop_microseconds:g} us a hop, each to its full.",
        "Communication: seconds a step of each setting with the fewest micro-steps that fit; overlapped: the longer of "
        "the two counts. The setting that communicates least need not be the fastest: pretrain.plan counts the host "
        "too, and goes by the time of a step.",
    ]


def header() -> str:
    """Return the names of the columns."""
    names = ("GPUs", "a GPU", "compute s", "stage 3 s", "+ hpZ s", "stage 2 s", "stage 1 s", "step s", "not overlapped")
    return "".join(f"{name:>{width(name)}}" for name in names) + "  communicates least        its efficiency"


def width(name: str) -> int:
    """Return the width of a column."""
    return max(11, len(name) + 2)


def row(config: EncoderRunConfig, num_ranks: int, compute: float, settings: list[TimedSetting]) -> str:
    """Return a line of the table, with the efficiency of the setting that communicates least."""
    least = min(settings, key=lambda setting: setting.seconds)
    seconds = {setting.name: setting.seconds for setting in settings}
    overlapped, apart = max(compute, least.seconds), compute + least.seconds
    figures = [f"{num_ranks:>11}", f"{config.samples_per_step.total // num_ranks:>11}", f"{compute:>11.3f}"]
    for name in ("stage 3", "stage 3, hpZ", "stage 2", "stage 1"):
        figures.append(f"{seconds[name]:>11.3f}" if name in seconds else f"{'too large':>11}")
    figures += [f"{overlapped:>11.3f}", f"{apart:>16.3f}"]
    said = f"{least.name} x {least.micro_steps}, {least.memory / 1e9:.0f} GB"
    return "".join(figures) + f"  {said:<26}{compute / overlapped:.0%} to {compute / apart:.0%}"


def timed_settings(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, machine: Machine
) -> list[TimedSetting]:
    """Return each way of sharing the state that fits a GPU, with the seconds of its communication."""
    found = []
    for setting in fitting_settings(config, memory_config, num_ranks, machine.room_gb):
        in_micro_steps = replace(config, gradient_accumulation_steps=setting.micro_steps)
        sent = step_traffic(in_micro_steps, setting.memory_config, num_ranks)
        seconds = sum(map(machine.network.seconds, sent))
        found.append(TimedSetting(f"stage {setting.name}", setting.micro_steps, setting.memory, seconds))
    return found


def what_breaks(num_ranks: int, most: int, compute: float, settings: list[TimedSetting]) -> list[str]:
    """Return sentences on where stage 3 reaches its limit, and on the remedy."""
    found = []
    third = next((setting for setting in settings if setting.name == "stage 3"), None)
    least = min(settings, key=lambda setting: setting.seconds)
    if third is not None and third.seconds > compute:
        answer = (
            f"{least.name} needs {least.seconds:.2f} s" if least.seconds < third.seconds else "none of the stages helps"
        )
        found.append(
            f"stage 3 communicates for {third.seconds:.2f} s with {third.micro_steps} micro-steps, longer than it "
            f"computes; {answer}."
        )
    if num_ranks == most:
        found.append(f"one sample of each kind a GPU: the end of {num_ranks} GPUs for this batch; only a larger batch.")
    return found


def compute_seconds(config: EncoderRunConfig, num_ranks: int, machine: Machine) -> float:
    """Return the seconds of computation per step."""
    return kind_of(config).step_flops(config) / (num_ranks * machine.peak_tflops * 1e12 * machine.mfu)
