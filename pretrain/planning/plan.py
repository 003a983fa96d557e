"""The plan of a recipe as text, in sections: network, memory, time, recommendation, duration, storage, commands."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pretrain.config.run_config import EncoderRunConfig
from pretrain.engine.memory_config import check_memory_config, read_memory_config, zero_settings
from pretrain.planning.commands import start_lines
from pretrain.planning.duration import Speed, duration_lines, measured_speed, stated_speed
from pretrain.planning.evaluation_cost import evaluation_note
from pretrain.planning.kinds import kind_of
from pretrain.planning.memory import is_offloaded_to_host, planned_kernels
from pretrain.planning.network_tables import parameter_table, stage_table, use_table
from pretrain.planning.options import PlanOptions
from pretrain.planning.recommendation import micro_batch_sentence, recommend, room_in_words
from pretrain.planning.roofline import StepTime
from pretrain.planning.sections import paragraph, section
from pretrain.planning.stages import GPUS_PER_NODE, is_for_cpu, plan_stage, plan_stages, way_of
from pretrain.planning.step_times import AssumedMachine, PredictedSetting, predicted_settings, step_time
from pretrain.planning.storage import checkpoint_lines, data_lines
from pretrain.planning.time_tables import part_table, rank_table

RANKS = (8, 16, 32, 64, 128)
"""Numbers of ranks that are compared."""
CPU_RANKS = 2
"""Ranks of a recipe for a machine without a GPU, as in the commands of its documentation."""


def default_ranks(config: EncoderRunConfig, machine: AssumedMachine | None) -> int:
    """Return the GPUs of a node, or CPU_RANKS without a GPU, or as many of them as divide the batch."""
    return math.gcd(CPU_RANKS if machine is None else GPUS_PER_NODE, *vars(config.samples_per_step).values())


def compared_ranks(config: EncoderRunConfig, num_ranks: int) -> list[int]:
    """Return num_ranks, and those of RANKS that divide the batch and its micro-steps."""
    parts = math.gcd(*vars(config.samples_per_step).values()) // config.gradient_accumulation_steps
    return sorted({num_ranks, *(ranks for ranks in RANKS if parts % ranks == 0)})


def machine_for(config: EncoderRunConfig, options: PlanOptions) -> AssumedMachine | None:
    """Return the machine that the options describe; None for a recipe without a GPU, unless they name one.

    Raises ValueError if an option needs a GPU and there is none.
    """
    if options.names_a_gpu or not is_for_cpu(config):
        return AssumedMachine(options.device, options.assume)
    for name, value in (("--mfu", options.mfu), ("--price", options.price)):
        if value is not None:
            raise ValueError(
                f"{name} is about GPUs, and {config.deepspeed_config} is for a CPU; add --gpu or leave it out"
            )
    return None


def speed_of(
    config: EncoderRunConfig, options: PlanOptions, machine: AssumedMachine | None, records: Sequence[Mapping[str, Any]]
) -> Speed | None:
    """Return the speed that the options give, None if they give none. records: log of the run that they name.

    Raises ValueError if that run has no speed.
    """
    if options.run is not None:
        return measured_speed(records, options.run)
    if options.mfu is None or machine is None:
        return None
    return stated_speed(options.mfu, machine.gpu.in_precision(config.precision))


def plan(
    config: EncoderRunConfig,
    num_ranks: int,
    machine: AssumedMachine | None,
    speed: Speed | None = None,
    price: float | None = None,
    arguments: Sequence[str] = ("RECIPE",),
) -> str:
    """Return all sections.

    machine: None for a CPU, whose times are not predicted; speed: stated or measured, in place of the predicted one;
    price: of a GPU-hour; arguments: recipe and overrides of the command line. Raises ValueError if the ranks do not
    divide the batch.
    """
    memory_config = read_memory_config(config.deepspeed_config)
    check_memory_config(config, memory_config, num_ranks)
    sections = network_sections(config)
    if machine is None:
        sections += cpu_sections(config, memory_config, num_ranks, speed)
        overrides: tuple[str, ...] | None = ()
    else:
        more, overrides = gpu_sections(config, memory_config, num_ranks, machine, speed, price)
        sections += more
    sections.append(section("Storage", [*data_lines(config), *checkpoint_lines(config, memory_config, num_ranks)]))
    if overrides is not None:
        words = [*arguments, *overrides]
        sections.append(section("Start", start_lines(words, num_ranks, machine is not None, kind_of(config).module)))
    return "\n\n".join(sections)


def network_sections(config: EncoderRunConfig) -> list[str]:
    """Return the sections on the network alone."""
    return [
        section("Parameters, counted", [parameter_table(config)]),
        section("One sample, counted, without heads", [use_table(config)]),
    ]


def gpu_sections(
    config: EncoderRunConfig,
    memory_config: dict[str, Any],
    num_ranks: int,
    machine: AssumedMachine,
    speed: Speed | None,
    price: float | None,
) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the sections on memory, time, recommendation and duration, and the overrides that are recommended; None if
    no setting fits."""
    stages = plan_stages(config, memory_config, num_ranks)
    time = step_time(config, memory_config, num_ranks, machine)
    by_ranks = {
        ranks: predicted_settings(config, memory_config, ranks, machine) for ranks in compared_ranks(config, num_ranks)
    }
    best = recommend(config, memory_config, stages, by_ranks[num_ranks], num_ranks, machine)
    peak = machine.gpu.in_precision(config.precision).peak_tflops * 1e12
    speed = speed or predicted_speed(best.found, time)
    reserve = f"assumed: of {room_in_words(machine)} (reserve_gb), {machine.room_gb:g} GB may be filled"
    title = f"{num_ranks} ranks, stage {way_of(memory_config)} ({config.deepspeed_config})"
    found = [
        section("Memory of a GPU, counted", [stage_table(config, stages, num_ranks, planned_kernels(config)), reserve]),
        section(
            "Time of a step, predicted from assumptions",
            [part_table(time, title, machine), *offload_note(memory_config)],
        ),
        section("Settings that fit: GB counted, times assumed", [rank_table(by_ranks)]),
        section(
            "Recommendation: GB counted, times assumed",
            map(paragraph, [best.sentence, micro_batch_sentence(config, memory_config, num_ranks, machine)]),
        ),
        section(
            "Whole run",
            [*duration_lines(config, num_ranks, speed, peak, price), paragraph(evaluation_note(config, num_ranks))],
        ),
    ]
    return found, best.overrides if best.found is not None else None


def predicted_speed(found: PredictedSetting | None, as_it_is: StepTime) -> Speed:
    """Return the speed of the recommended setting; if nothing fits, that of the recipe as it is."""
    if found is None:
        return Speed(
            as_it_is.flops / as_it_is.seconds, "assumed", "predicted above for the recipe as it is, which does not fit"
        )
    return Speed(found.time.flops / found.time.seconds, "assumed", "predicted above for the recommended setting")


def cpu_sections(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, speed: Speed | None
) -> list[str]:
    """Return the sections on memory and duration of a run without a GPU."""
    stage = plan_stage(config, memory_config, num_ranks, on_cpu=True)
    note = paragraph(
        f"{config.deepspeed_config} is for a machine without a GPU, whose speed is not predicted. "
        "--run RUN takes the speed from a run's log; --gpu h100 plans the recipe for a GPU."
    )
    lines = [note] if speed is None else duration_lines(config, num_ranks, speed, None, None)
    return [
        section("Memory of a rank, counted", [stage_table(config, [stage], num_ranks, "reference")]),
        section("Whole run", [*lines, paragraph(evaluation_note(config, num_ranks))]),
    ]


def offload_note(memory_config: dict[str, Any]) -> list[str]:
    """Return a sentence on the times of a file with offload; no sentence for others."""
    zero = zero_settings(memory_config)
    if not (is_offloaded_to_host(zero.offload_optimizer) or is_offloaded_to_host(zero.offload_param)):
        return []
    return [
        "With offload a step takes longer than predicted: the copies between GPU and host are not counted, and the "
        "optimizer counts as if it ran on the GPU."
    ]
