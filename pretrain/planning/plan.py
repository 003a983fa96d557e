"""The plan of a recipe as text: tables of parameters, samples and ZeRO stages, and a verdict on them."""

import math
from typing import Any

from model.config import USES, MultiwayConfig
from model.flops import forward_flops
from model.parameter_counts import count_activated, count_by_part
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.memory_config import check_memory_config, read_memory_config
from pretrain.planning.memory import micro_batch, planned_kernels
from pretrain.planning.stages import GPUS_PER_NODE, StagePlan, plan_stages, remedies


def default_ranks(config: PretrainConfig) -> int:
    """Return the GPUs of a node, or as many of them as divide the batch."""
    return math.gcd(GPUS_PER_NODE, *vars(config.samples_per_step).values())


def plan(config: PretrainConfig, num_ranks: int, gpu_gb: float) -> str:
    """Return three tables and a verdict. Raises ValueError if the ranks do not divide the batch."""
    memory_config = read_memory_config(config.deepspeed_config)
    check_memory_config(config, memory_config, num_ranks)
    stages = plan_stages(config, memory_config, num_ranks)
    parts = [
        parameter_table(config.model),
        use_table(config),
        stage_table(config, stages, num_ranks),
        verdict(config, memory_config, stages, num_ranks, gpu_gb),
    ]
    return "\n\n".join(parts)


def parameter_table(model: MultiwayConfig) -> str:
    """Return a table of parameters by part and in total."""
    counts = count_by_part(model)
    rows = [("parameters", "", ""), *(_row(part, count) for part, count in counts.items())]
    return "\n".join(f"{a:26}{b:>15}{c:>10}" for a, b, c in [*rows, _row("total", sum(counts.values()))])


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
    config: PretrainConfig, memory_config: dict[str, Any], stages: list[StagePlan], num_ranks: int, gpu_gb: float
) -> str:
    """Return a sentence on whether stage 3 is worth its traffic, or on the settings that would make the recipe fit."""
    fitting = [stage for stage in stages if stage.memory.total <= gpu_gb * 1e9]
    if not fitting:
        least = min(stages, key=lambda stage: stage.memory.total)
        answers = list(remedies(config, memory_config, num_ranks, gpu_gb))
        said = f"No stage fits {gpu_gb:g} GB: stage {least.stage} needs {least.memory.total / 1e9:.1f} GB. "
        return said + ("; ".join(answers) + "." if answers else "Take more ranks or a smaller model.")
    best = min(fitting, key=lambda stage: (round(stage.sent / 1e7), stage.stage))
    third = stages[-1]
    if best.stage == 3:
        return f"Stage 3 is worth what it sends: no other stage that fits {gpu_gb:g} GB sends less."
    if round(best.sent / 1e7) == round(third.sent / 1e7):
        saved = (best.memory.total - third.memory.total) / 1e9
        return (
            f"Stage 3 costs nothing here: it sends what stage {best.stage} does, in one micro-step, and saves "
            f"{saved:.1f} GB a rank."
        )
    return (
        f"Stage 3 is not worth what it sends: stage {best.stage} fits {gpu_gb:g} GB with {best.memory.total / 1e9:.1f} "
        f"GB and sends {best.sent / 1e9:.1f} GB a step, stage 3 {third.sent / 1e9:.1f} GB."
    )


def _row(name: str, count: int) -> tuple[str, str, str]:
    return name, f"{count:,}", f"{count / 1e6:.0f}M"
