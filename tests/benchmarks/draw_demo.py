"""python -m tests.benchmarks.draw_demo [runs/demo]: the picture in the README, from a finished demo.

The captions of the first held-out pairs, none chosen by hand, with each content word hidden in turn and replaced by
the network's guess: above with the image of the caption, below with the image of another pair. Beside them the losses
of the run and the step at which it was stopped and resumed. It needs matplotlib.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import read_held_out
from pretrain.jobs.visual_tokens import network_view
from pretrain.reporting.caption_gallery import Word, guess_caption
from pretrain.run.run_log import read_log
from tests.benchmarks.packages import require_packages

ROOT = Path(__file__).parents[2]
NUM_SHOWN = 5
RIGHT, WRONG, KEPT = "#1a7f37", "#c62828", "#333333"
LOSSES = {
    "mim": "patches of images",
    "mvlm_image": "patches of pairs",
    "mlm": "words of texts",
    "mvlm_text": "words of captions",
}
SMOOTHED_STEPS = 20
"""Number of steps averaged for a point of a curve."""


@dataclass(frozen=True)
class DrawOptions:
    """Guesses and losses of a finished demo, as a picture."""

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/demo")
    """The demo's run folder, with its data in it."""
    picture: Path = ROOT / "docs" / "images" / "demo.png"
    """File to write the picture to."""


def main() -> None:
    options = tyro.cli(DrawOptions)
    require_packages({"matplotlib": "matplotlib"})
    try:
        draw_demo(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}; run make demo first")
    print(options.picture)


def draw_demo(options: DrawOptions) -> None:
    """Write the picture. Raises ValueError or OSError if the run or its held-out pairs are missing."""
    checkpoint = find_checkpoint(options.run, PretrainConfig)
    model, config = load_model(checkpoint).eval(), checkpoint.config
    tokenizer = TextTokenizer(checkpoint.text_tokenizer)
    pairs = options.run / "data" / "held_out_pairs"
    images, captions = read_held_out(pairs, config.data, config.model.image_size, 2 * NUM_SHOWN)
    pixels, length = network_view(images, config.model.image_size), config.data.caption_length
    shown = []
    for pair in range(NUM_SHOWN):
        places = (pair, pair + NUM_SHOWN)  # the caption's own image, and that of another pair
        guesses = [guess_caption(model, tokenizer, pixels[place], captions[pair], length) for place in places]
        shown.append([(images[place], words) for place, words in zip(places, guesses, strict=True)])
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(shown, read_log(options.run), options.picture)


def draw(shown: list[list[tuple[Tensor, list[Word]]]], log: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(12, 4.9))
    left, right = figure.subfigures(1, 2, width_ratios=(2.55, 1))
    axes = left.subplots(2, len(shown))
    left.subplots_adjust(left=0.045, right=0.99, top=0.985, bottom=0.17, wspace=0.14, hspace=0.36)
    for column, versions in enumerate(shown):
        for row, (image, words) in enumerate(versions):
            axis = axes[row, column]
            axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#bbbbbb")
            write_words(axis, words)
    for row, label in enumerate(("its own image", "another image")):
        axes[row, 0].set_ylabel(label, fontsize=10)
    legend = (
        ("guessed as in the caption", RIGHT, "bold"),
        ("guessed otherwise", WRONG, "bold"),
        ("not hidden", KEPT, "normal"),
    )
    for number, (text, color, weight) in enumerate(legend):
        left.text(0.045 + 0.26 * number, 0.015, text, color=color, fontsize=9.5, weight=weight)
    draw_losses(right.subplots(), log)
    right.subplots_adjust(left=0.13, right=0.97, top=0.92, bottom=0.115)
    figure.savefig(path, dpi=100)


def write_words(axis: Any, words: list[Word]) -> None:
    """Write words below a picture, wrapped to its width."""
    renderer = axis.figure.canvas.get_renderer()
    box = axis.get_window_extent(renderer)
    left, line, space = 0.0, 0, 4.0
    for word in words:
        text = axis.text(0, 0, word.guess or word.truth, fontsize=9, color=color_of(word), va="baseline")
        text.set_fontweight("bold" if word.is_hidden else "normal")
        width = text.get_window_extent(renderer).width
        if left and left + width > box.width + 6:
            left, line = 0.0, line + 1
        text.set_transform(axis.transAxes)
        text.set_position((left / box.width, -(15 + 15 * line) / box.height))
        left += width + space


def color_of(word: Word) -> str:
    """Return the color of a word: kept, or guessed right or wrong."""
    if not word.is_hidden:
        return KEPT
    return RIGHT if word.is_right else WRONG


def draw_losses(axis: Any, log: list[dict[str, Any]]) -> None:
    for name, label in LOSSES.items():
        values = torch.tensor([record["losses"][name] for record in log])
        means = values.unfold(0, SMOOTHED_STEPS, 1).nanmean(-1)
        axis.plot(range(SMOOTHED_STEPS - 1, len(log)), means, label=label, linewidth=1.4)
    for resumed in [record["step"] + 1 for record in log if record["stop"]]:
        axis.axvline(resumed, color="#888888", linewidth=1, linestyle="--")
        axis.text(resumed + 8, axis.get_ylim()[1] * 0.97, "stopped,\nresumed", fontsize=9, color="#555555", va="top")
    axis.set_ylim(bottom=0)
    axis.set_xlim(0, len(log))
    axis.set_title("losses, nats", fontsize=10)
    axis.set_xlabel("step", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.88))


if __name__ == "__main__":
    main()
