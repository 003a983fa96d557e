"""Tables of a plan that need no machine: parameters, samples, memory by ZeRO stage. All are counted."""

from model.flops import forward_flops
from model.parameter_counts import count_activated, count_by_part
from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.kinds import kind_of
from pretrain.planning.memory import count_pieces, micro_batch
from pretrain.planning.stages import StagePlan


def parameter_table(config: EncoderRunConfig) -> str:
    """Return a table of parameters by part and in total."""
    counts = count_by_part(config.model, config.heads)
    rows = [*(_row(part, count) for part, count in counts.items()), _row("total", sum(counts.values()))]
    rows.append(f"{'tensors that DeepSpeed sees':30}{count_pieces(config, 0).num_tensors:>15,}")
    return "\n".join(rows)


def use_table(config: EncoderRunConfig) -> str:
    """Return a table of the encoder's tokens, parameters and operations for one sample of each kind, with texts of the
    recipe's lengths."""
    lines = [f"{'':26}{'tokens':>8}{'parameters used':>20}{'forward GFLOPs':>17}"]
    for use, text_tokens in kind_of(config).uses(config).items():
        num_tokens = text_tokens + (0 if use == "text" else config.model.num_image_tokens)
        activated = count_activated(config.model, use)
        gflops = forward_flops(config.model, use, text_tokens) / 1e9
        lines.append(f"{use:26}{num_tokens:>8}{activated:>20,}{gflops:>17.2f}")
    return "\n".join(lines)


def stage_table(config: EncoderRunConfig, stages: list[StagePlan], num_ranks: int, kernels: str) -> str:
    """Return a table of the GB per rank at the peak of a step."""
    batch, micro_steps = micro_batch(config, num_ranks), config.gradient_accumulation_steps
    *others, last = [f"{count} {kind.replace('_', ' ')}" for kind, count in vars(batch).items() if count]
    samples = f"{', '.join(others)} and {last}" if others else last
    head = (
        f"{num_ranks} ranks, {micro_steps} micro-step{'s' * (micro_steps > 1)} of {samples} a rank, kernels {kernels}; "
        "GB = 1e9 bytes"
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
    lines.append("tokenizer: the visual one, if there is one, and the batch")
    return "\n".join(lines)


def _row(name: str, count: int) -> str:
    return f"{name:30}{count:>15,}{f'{count / 1e6:.0f}M':>10}"
