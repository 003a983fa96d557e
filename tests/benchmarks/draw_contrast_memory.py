"""Peak memory of the contrastive loss and its gradients by the size of the global batch, measured and drawn.

    python -m tests.benchmarks.draw_contrast_memory [--append] [--sizes 1024 2048 4096 8192 16384]

Ours (pretrain/jobs/global_contrast.py) beside open_clip's ClipLoss and its backward, which keep all logits:
softmax, float32, features of 768, one rank, which has the whole batch. Bytes are those that torch allocates for loss
and gradients, by its profiler. Writes docs/images/contrast_memory.png; needs matplotlib and open_clip_torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.jobs.global_contrast import global_contrast
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.support.allocations import allocations, peak_bytes
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.mistakes import only_rank

ROOT = Path(__file__).parents[2]
DIM = 768
"""Width of the features of base."""
LOGIT_SCALE = math.log(1 / 0.07)
OURS, PEER = "#1f5fa8", "#c2570c"


@dataclass(frozen=True)
class MemoryOptions:
    """Peak memory of the contrastive loss by the size of the global batch."""

    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    """Numbers of pairs in the global batch."""
    picture: Path = ROOT / "docs" / "images" / "contrast_memory.png"
    """File to write the picture to."""
    append: bool = False
    """Append the figures to RESULTS.md."""


def main() -> None:
    options = tyro.cli(MemoryOptions)
    require_packages({"matplotlib": "matplotlib", "open_clip": "open_clip_torch"})
    clip_loss = import_beside_cpu_torch("open_clip.loss").ClipLoss()

    def peer(images: Tensor, texts: Tensor) -> None:
        images.requires_grad_()
        texts.requires_grad_()
        scale = torch.tensor(LOGIT_SCALE, requires_grad=True)
        clip_loss(images, texts, scale.exp()).backward()

    ours, theirs = {}, {}
    print(f"{'pairs':>8}{'ours MB':>12}{'open_clip MB':>14}")
    with only_rank():
        for size in options.sizes:
            ours[size] = measured(contrast, size)
            theirs[size] = measured(peer, size)
            print(f"{size:>8,}{ours[size] / 1e6:>12,.1f}{theirs[size] / 1e6:>14,.1f}", flush=True)
    draw(ours, theirs, options.picture)
    largest = max(options.sizes)
    figures = {f"mb_{size}": num_bytes / 1e6 for size, num_bytes in ours.items()}
    figures |= {f"open_clip_mb_{size}": num_bytes / 1e6 for size, num_bytes in theirs.items()}
    figures[f"vs_open_clip_{largest}"] = ours[largest] / theirs[largest]
    if options.append:
        append_results("draw_contrast_memory", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def contrast(images: Tensor, texts: Tensor) -> None:
    """Compute our softmax loss of one rank, and its gradients."""
    global_contrast(images, texts, torch.tensor(LOGIT_SCALE), None)


def measured(loss: Callable[[Tensor, Tensor], None], num_pairs: int) -> int:
    """Return the most bytes that a loss and its gradients allocate, beside the features of the pairs."""
    generator = torch.Generator().manual_seed(num_pairs)
    images, texts = (normalize(torch.randn(num_pairs, DIM, generator=generator), dim=-1) for _ in range(2))
    with allocations() as events:
        loss(images, texts)
    return peak_bytes(events)


def draw(ours: dict[int, int], theirs: dict[int, int], picture: Path) -> None:
    """Write the picture: bytes by pairs, with axes that show which is linear."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4), constrained_layout=True)
    for found, color, name in ((theirs, PEER, "open_clip: logits of all pairs"), (ours, OURS, "ours: rows in chunks")):
        axis.plot([*found], [num_bytes / 1e9 for num_bytes in found.values()], "o-", color=color, linewidth=2)
        size, num_bytes = [*found.items()][-1]
        axis.annotate(
            f"{name}, {num_bytes / 1e9:.2f} GB", (size, num_bytes / 1e9), xytext=(-8, 6), textcoords="offset points",
            ha="right", color=color,
        )  # fmt: skip
    axis.set_xlabel("pairs in the global batch")
    axis.set_ylabel("GB for the loss and its gradients")
    axis.set_xlim(0)
    axis.set_ylim(0)
    axis.xaxis.set_major_formatter(lambda pairs, _: f"{pairs:,.0f}")
    axis.set_xticks([0, *[size for size in ours if size >= max(ours) / 4]])
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
