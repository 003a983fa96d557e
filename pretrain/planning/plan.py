"""The plan of a recipe as text: tables of parameters, samples and ZeRO stages, and a verdict on them."""

import math
from typing import Any

from model.config import USES, MultiwayConfig
from model.flops import forward_flops
from model.parameter_counts import count_activated, count_by_part
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.memory_config import check_memory_config, read_memory_config, zero_settings
from pretrain.planning.evaluation_cost import evaluation_note
from pretrain.planning.memory import count_pieces, is_offloaded_to_host, micro_batch, planned_kernels
from pretrain.planning.stages import GPUS_PER_NODE, SHIPPED, StagePlan, plan_stages, remedies, way_of
from pretrain.planning.step_times import AssumedMachine, PredictedSetting, predicted_settings, step_time
from pretrain.planning.time_tables import part_table, rank_table

RANKS = (8, 16, 32, 64, 128)
"""Numbers of ranks that are compared."""
TIE = 1.01
"""Ratio of predicted times that the assumptions do not tell apart."""


def default_ranks(config: PretrainConfig) -> int:
    """Return the GPUs of a node, or as many of them as divide the batch."""
    return math.gcd(GPUS_PER_NODE, *vars(config.samples_per_step).values())


def compared_ranks(config: PretrainConfig, num_ranks: int) -> list[int]:
    """Return num_ranks, and those of RANKS that divide the batch and its micro-steps."""
    parts = math.gcd(*vars(config.samples_per_step).values()) // config.gradient_accumulation_steps
    return sorted({num_ranks, *(ranks for ranks in RANKS if parts % ranks == 0)})


def plan(config: PretrainConfig, num_ranks: int, machine: AssumedMachine) -> str:
    """Return five tables and a verdict. Raises ValueError if the ranks do not divide the batch."""
    memory_config = read_memory_config(config.deepspeed_config)
    check_memory_config(config, memory_config, num_ranks)
    stages = plan_stages(config, memory_config, num_ranks)
    time = step_time(config, memory_config, num_ranks, machine)
    by_ranks = {
        ranks: predicted_settings(config, memory_config, ranks, machine) for ranks in compared_ranks(config, num_ranks)
    }
    parts = [
        parameter_table(config.model),
        use_table(config),
        stage_table(config, stages, num_ranks),
        part_table(time, f"{num_ranks} ranks, stage {way_of(memory_config)} ({config.deepspeed_config})", machine),
        rank_table(by_ranks),
        *offload_note(memory_config),
        evaluation_note(config, num_ranks),
        verdict(config, memory_config, stages, by_ranks[num_ranks], num_ranks, machine.gpu.memory_gb),
    ]
    return "\n\n".join(parts)


def offload_note(memory_config: dict[str, Any]) -> list[str]:
    """Return a sentence on the times of a file with offload; no sentence for others."""
    zero = zero_settings(memory_config)
    if not (is_offloaded_to_host(zero.offload_optimizer) or is_offloaded_to_host(zero.offload_param)):
        return []
    return [
        "With offload a step takes longer than predicted: the copies between GPU and host are not counted, and the "
        "optimizer counts as if it ran on the GPU."
    ]


def parameter_table(model: MultiwayConfig) -> str:
    """Return a table of parameters by part and in total."""
    counts = count_by_part(model)
    rows = [("parameters", "", ""), *(_row(part, count) for part, count in counts.items())]
    rows += [
        _row("total", sum(counts.values())),
        ("tensors that DeepSpeed sees", f"{count_pieces(model, 0).num_tensors:,}", ""),
    ]
    return "\n".join(f"{a:30}{b:>15}{c:>10}" for a, b, c in rows)


def use_table(config: PretrainConfig) -> str:
    """Return a table of the encoder's tokens, parameters and operations for one sample of each kind, with texts of the
    recipe's lengths."""
    lines = [f"{'one sample (no heads)':26}{'tokens':>8}{'parameters used':>20}{'forward GFLOPs':>17}"]
    text_tokens = {"image": 0, "text": config.data.text_length, "pair": config.data.caption_length}
    for use in USES:
        num_tokens = text_tokens[use] + (0 if use == "text" else config.model.num_image_tokens)
        activated = count_activated(config.model, use)
        gflops = forward_flops(config.model, use, text_tokens[use]) / 1e9
        lines.append(f"{use:26}{num_tokens:>8}{activated:>20,}{gflops:>17.2f}")
    return "\n".join(lines)


def stage_table(config: PretrainConfig, stages: list[StagePlan], num_ranks: int) -> str:
    """Return a table of the GB per rank at the peak of a step."""
    batch, micro_steps = micro_batch(config, num_ranks), config.gradient_accumulation_steps
    head = (
        f"{num_ranks} ranks, {micro_steps} micro-step{'s' * (micro_steps > 1)} of {batch.images} images, {batch.pairs} "
        f"pairs and {batch.texts} texts a rank, kernels {planned_kernels(config)}; GB a rank, GB = 1e9 bytes"
    )
    names = ("weights", "optimizer", "gradients", "buffers", "activations", "tokenizer", "total", "sent a step")
    lines = [head, f"{'ZeRO stage':12}" + "".join(f"{name:>13}" for name in names)]
    for stage in stages:
        memory = stage.memory
        figures = (
            memory.weights, memory.optimizer, memory.gradients, memory.buffers, memory.activations + memory.beyond,
            memory.tokenizer + memory.batch, memory.total, stage.sent,
        )  # fmt: skip
        lines.append(f"{stage.stage:<12}" + "".join(f"{figure / 1e9:>13.2f}" for figure in figures))
    lines.append("tokenizer: the visual one and the batch. CUDA's context and NCCL's buffers come on top.")
    return "\n".join(lines)


def verdict(
    config: PretrainConfig,
    memory_config: dict[str, Any],
    stages: list[StagePlan],
    fitting: list[PredictedSetting],
    num_ranks: int,
    gpu_gb: float,
) -> str:
    """Return a sentence on the fastest way that fits, beside the recipe's, or on settings that would make it fit."""
    if not fitting:
        least = min(stages, key=lambda stage: stage.memory.total)
        answers = list(remedies(config, memory_config, num_ranks, gpu_gb))
        said = f"No stage fits {gpu_gb:g} GB: stage {least.stage} needs {least.memory.total / 1e9:.1f} GB. "
        return said + ("; ".join(answers) + "." if answers else "Take more ranks or a smaller model.")
    best, own = fitting[0], next((found for found in fitting if found.setting.name == way_of(memory_config)), None)
    if own is None:
        return f"{config.deepspeed_config} does not fit {gpu_gb:g} GB; the fastest that does: {_described(best)}."
    if own.time.seconds <= TIE * best.time.seconds:
        return (
            f"{config.deepspeed_config} is predicted to be as fast as any that fits {gpu_gb:g} GB: {_described(own)}."
        )
    return (
        f"ds_configs/{SHIPPED[best.setting.name]} is predicted to be the fastest that fits {gpu_gb:g} GB: "
        f"{_described(best)}; {config.deepspeed_config}: {_described(own)}."
    )


def _described(found: PredictedSetting) -> str:
    setting, time = found.setting, found.time
    return (
        f"stage {setting.name} with {setting.micro_steps} micro-step{'s' * (setting.micro_steps > 1)} and "
        f"{setting.memory / 1e9:.1f} GB, {time.seconds:.3f} s a step, MFU {time.mfu:.2f}"
    )


def _row(name: str, count: int) -> tuple[str, str, str]:
    return name, f"{count:,}", f"{count / 1e6:.0f}M"
