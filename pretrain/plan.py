"""What a recipe builds: python -m pretrain.plan RECIPE [overrides]

Parameters by part, and what one sample of each kind passes through. Nothing is allocated.
"""

from model.config import MultiwayConfig
from model.flops import forward_flops
from model.parameter_counts import USES, count_activated, count_by_part
from pretrain.command_line import parse_recipe
from pretrain.config import PretrainConfig
from pretrain.recipes import RECIPES


def main() -> None:
    print(plan(parse_recipe(RECIPES, "pretrain.plan")))


def plan(config: PretrainConfig) -> str:
    """Two tables."""
    return f"{parameter_table(config.model)}\n\n{use_table(config)}"


def parameter_table(model: MultiwayConfig) -> str:
    """Parameters by part and in total."""
    counts = count_by_part(model)
    rows = [("parameters", "", ""), *(_row(part, count) for part, count in counts.items())]
    return "\n".join(f"{a:26}{b:>15}{c:>10}" for a, b, c in [*rows, _row("total", sum(counts.values()))])


def use_table(config: PretrainConfig) -> str:
    """Tokens, parameters and operations of the encoder for one sample of each kind, texts at the recipe's lengths."""
    lines = [f"{'one sample (no heads)':26}{'tokens':>8}{'parameters used':>20}{'forward GFLOPs':>17}"]
    text_tokens = {"image": 0, "text": config.data.text_length, "pair": config.data.caption_length}
    for use in USES:
        num_tokens = text_tokens[use] + (0 if use == "text" else config.model.num_image_tokens)
        activated = count_activated(config.model, use)
        gflops = forward_flops(config.model, use, text_tokens[use]) / 1e9
        lines.append(f"{use:26}{num_tokens:>8}{activated:>20,}{gflops:>17.2f}")
    return "\n".join(lines)


def _row(name: str, count: int) -> tuple[str, str, str]:
    return name, f"{count:,}", f"{count / 1e6:.0f}M"


if __name__ == "__main__":
    main()
