"""Peak memory of the contrastive loss and its gradients by the size of the global batch, counted, measured and drawn.

    python -m tests.benchmarks.draw_contrast_memory [--append] [--measure-up-to 16384]

Ours (pretrain/jobs/global_contrast.py) beside open_clip's ClipLoss and its backward, which keep all logits: softmax,
float32, features of 768, one rank, which has the whole batch. Counted: bytes of the tensors that the operations make,
on the meta device, where nothing is computed. Measured: bytes that torch allocates, by its profiler, for the smaller
batches, since the operations grow with the square of the batch. Writes docs/images/contrast_memory.png; needs
matplotlib and open_clip_torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.jobs.global_contrast import global_contrast
from pretrain.planning.contrast_kind import contrast_of_a_rank
from pretrain.planning.live_memory import LiveMemory
from pretrain.recipes import CONTRAST_RECIPES
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.mistakes import only_rank
from tests.support.step_memory import peak_of

ROOT = Path(__file__).parents[2]
BASE = CONTRAST_RECIPES["contrast_base"]()
DIM = BASE.model.dim
LOGIT_SCALE = math.log(1 / 0.07)
OURS, PEER = "#1f5fa8", "#c2570c"
Loss = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class MemoryOptions:
    """Peak memory of the contrastive loss by the size of the global batch."""

    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    """Numbers of pairs in the global batch."""
    measure_up_to: int = 4096
    """Largest of them that is measured as well."""
    picture: Path = ROOT / "docs" / "images" / "contrast_memory.png"
    """File to write the picture to."""
    append: bool = False
    """Append the figures to RESULTS.md."""


def main() -> None:
    options = tyro.cli(MemoryOptions)
    require_packages({"matplotlib": "matplotlib", "open_clip": "open_clip_torch"})
    clip_loss = import_beside_cpu_torch("open_clip.loss").ClipLoss()

    def peer(images: Tensor, texts: Tensor) -> None:
        scale = torch.full((), LOGIT_SCALE, device=images.device, requires_grad=True)
        clip_loss(images.requires_grad_(), texts.requires_grad_(), scale.exp()).backward()

    counted: dict[str, dict[int, int]] = {"ours": {}, "open_clip": {}}
    measured: dict[str, dict[int, int]] = {"ours": {}, "open_clip": {}}
    print(f"{'pairs':>8}{'ours MB':>12}{'measured':>12}{'open_clip MB':>14}{'measured':>12}")
    for size in options.sizes:
        counted["ours"][size], counted["open_clip"][size] = counted_contrast(size), counted_bytes(peer, size)
        if size <= options.measure_up_to:
            with only_rank():
                measured["ours"][size] = measured_bytes(contrast, size)
            measured["open_clip"][size] = measured_bytes(peer, size)
        row = [found[name].get(size) for name in ("ours", "open_clip") for found in (counted, measured)]
        cells = ["" if num_bytes is None else f"{num_bytes / 1e6:,.1f}" for num_bytes in row]
        print(f"{size:>8,}{cells[0]:>12}{cells[1]:>12}{cells[2]:>14}{cells[3]:>12}", flush=True)
    draw(counted, measured, options.picture)
    figures = {f"{name}_mb_{size}": found / 1e6 for name in counted for size, found in counted[name].items()}
    for name, found in measured.items():
        figures |= {f"{name}_counted_vs_measured_{size}": counted[name][size] / found[size] for size in found}
    largest = max(options.sizes)
    figures[f"vs_open_clip_{largest}"] = counted["ours"][largest] / counted["open_clip"][largest]
    if options.append:
        append_results("draw_contrast_memory", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def contrast(images: Tensor, texts: Tensor) -> None:
    """Compute our softmax loss of one rank, and its gradients."""
    global_contrast(images, texts, torch.tensor(LOGIT_SCALE), None)


def counted_contrast(num_pairs: int) -> int:
    """Return the most bytes that our loss and its gradients hold beside the features, as a plan counts them."""
    with LiveMemory() as memory:
        contrast_of_a_rank(replace(BASE, pairs_per_step=num_pairs), num_pairs)
    return memory.peak - 4 * 2 * num_pairs * DIM


def counted_bytes(loss: Loss, num_pairs: int) -> int:
    """Return the most bytes that a loss and its gradients hold beside the features, counted on the meta device."""
    images, texts = (torch.empty(num_pairs, DIM, device="meta") for _ in range(2))
    with LiveMemory() as memory:
        loss(images, texts)
    return memory.peak


def measured_bytes(loss: Loss, num_pairs: int) -> int:
    """Return the most bytes that torch allocates for a loss and its gradients.

    For ours 8 B D too many: the copy of the features that is gathered from is freed by a thread of gloo, which torch's
    profiler does not see.
    """
    images, texts = (normalize(torch.randn(num_pairs, DIM), dim=-1) for _ in range(2))
    return peak_of(lambda: loss(images, texts), "cpu")


def draw(counted: dict[str, dict[int, int]], measured: dict[str, dict[int, int]], picture: Path) -> None:
    """Write the picture: lines are counted, rings measured."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4), constrained_layout=True)
    for name, color, words in (("open_clip", PEER, "open_clip: all logits"), ("ours", OURS, "ours: chunks of them")):
        found = counted[name]
        axis.plot([*found], [num_bytes / 1e9 for num_bytes in found.values()], "-", color=color, linewidth=2)
        sizes, heights = [*measured[name]], [num_bytes / 1e9 for num_bytes in measured[name].values()]
        axis.plot(sizes, heights, "o", color=color, markerfacecolor="white")
        size, num_bytes = [*found.items()][-1]
        axis.annotate(
            f"{words}, {num_bytes / 1e9:.2f} GB", (size, num_bytes / 1e9), xytext=(-8, 6), textcoords="offset points",
            ha="right", color=color,
        )  # fmt: skip
    axis.set_xlabel("pairs in the global batch; lines counted, rings measured")
    axis.set_ylabel("GB for the loss and its gradients")
    axis.set_xlim(0)
    axis.set_ylim(0)
    axis.xaxis.set_major_formatter(lambda pairs, _: f"{pairs:,.0f}")
    axis.set_xticks([0, *[size for size in counted["ours"] if size >= max(counted["ours"]) / 4]])
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
