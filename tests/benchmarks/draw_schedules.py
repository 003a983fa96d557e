"""python -m tests.benchmarks.draw_schedules: the learning rates in docs/schedules.md. It needs matplotlib.

Every point is a value of the function that a run takes its learning rate from.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.schedule import learning_rate
from tests.benchmarks.packages import require_packages

ROOT = Path(__file__).parents[2]
NUM_STEPS, WARMUP, DECAY = 1000, 50, 200
PROLONGED = 1500


@dataclass(frozen=True)
class DrawOptions:
    """The three schedules of the learning rate, as a picture."""

    picture: Path = ROOT / "docs" / "images" / "schedules.png"
    """File to write the picture to."""


def curve(optimizer: OptimizerConfig, num_steps: int) -> list[float]:
    """Return the learning rate of every step, as parts of the peak."""
    return [learning_rate(optimizer, step, num_steps) / optimizer.peak_lr for step in range(num_steps)]


def main() -> None:
    options = tyro.cli(DrawOptions)
    require_packages({"matplotlib": "matplotlib"})
    import matplotlib.pyplot as plt

    cosine = OptimizerConfig(peak_lr=1e-3, min_lr=1e-5, warmup_steps=WARMUP)
    wsd = replace(cosine, schedule="wsd", decay_steps=DECAY)
    constant = replace(cosine, schedule="constant")
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True, constrained_layout=True)
    shown = (
        ("cosine", cosine, "fixed when it starts"),
        ("wsd", wsd, "prolonged before the decay"),
        ("constant", constant, "goes on or is ended by a decay"),
    )
    for axis, (name, optimizer, remark) in zip(axes, shown, strict=True):
        axis.plot(curve(optimizer, NUM_STEPS), color="#1f5fa8", linewidth=2)
        axis.set_title(f"{name}: {remark}", fontsize=10)
        axis.set_xlabel("step")
        axis.set_xlim(0, PROLONGED)
        axis.set_ylim(0, 1.05)
        axis.spines[["top", "right"]].set_visible(False)
    start = NUM_STEPS - DECAY
    axes[1].plot(range(start, PROLONGED), curve(wsd, PROLONGED)[start:], color="#1f5fa8", linestyle="--", linewidth=1.5)
    axes[1].axvline(start, color="#888888", linewidth=0.8)
    axes[1].annotate(
        "kept checkpoint", (start, 0.08), xytext=(-5, 0), textcoords="offset points", fontsize=8, ha="right"
    )
    ended = curve(wsd, NUM_STEPS + DECAY)[NUM_STEPS:]
    axes[2].plot(range(NUM_STEPS, NUM_STEPS + DECAY), ended, color="#1f5fa8", linestyle="--", linewidth=1.5)
    axes[2].axvline(NUM_STEPS, color="#888888", linewidth=0.8)
    axes[0].set_ylabel("part of peak_lr")
    figure.savefig(options.picture, dpi=110)
    print(f"{options.picture}: schedules of {NUM_STEPS} steps")


if __name__ == "__main__":
    main()
