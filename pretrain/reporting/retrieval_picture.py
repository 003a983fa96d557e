"""A retrieval gallery as one PNG file, drawn by matplotlib: a row per query, its best answers from left to right."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.sources.files import require
from pretrain.reporting.pngs import DPI, QUIET
from pretrain.reporting.retrieval_gallery import Item, Query

RIGHT, WRONG = "#137a52", "#c9cdd3"
"""Frames of right and of other answers."""
CELL, TEXT_CELL = 1.25, 1.9
"""Inches of an image's side, and of the width of a text."""
CHARACTERS_PER_INCH = 11
"""Characters of a text per inch, at its font size."""
MOST_LINES = 6


def draw_retrieval(queries: Sequence[Query], file: Path, title: str = "") -> None:
    """Write the queries, all of texts or all of images, as one picture.

    file: its suffix decides the format. Raises ValueError if matplotlib is missing, OSError.
    """
    require("matplotlib", "to draw retrieval").use("Agg")
    from matplotlib import pyplot

    asks_texts = queries[0].item.image is None
    num_answers = max(len(query.answers) for query in queries)
    widths = [TEXT_CELL if asks_texts else CELL, *[CELL if asks_texts else TEXT_CELL] * num_answers]
    has_names = any(answer.text for query in queries for answer in query.answers) and asks_texts
    height = CELL + 0.2 + 0.3 * has_names
    figure, axes = pyplot.subplots(
        len(queries),
        len(widths),
        figsize=(sum(widths) + 0.2 * len(widths), height * len(queries) + 0.4),
        gridspec_kw={"width_ratios": widths},
        layout="constrained",
        squeeze=False,
    )
    for row, query in zip(axes, queries, strict=True):
        _draw_query(row[0], query)
        for axis, answer, is_right in zip(row[1:], query.answers, query.is_right, strict=False):
            _draw_answer(axis, answer, is_right)
        for axis in row[1 + len(query.answers) :]:
            axis.set_axis_off()
    if title:
        figure.suptitle(_plain(title), fontsize=10, x=0.01, ha="left")
    figure.savefig(file, dpi=DPI)
    pyplot.close(figure)


def _draw_query(axis: Any, query: Query) -> None:
    """Draw the text or image that is asked for, and the rank of the first right answer."""
    axis.set_axis_off()
    rank = f"right at {query.rank} of {query.num_candidates}"
    if query.item.image is not None:
        _show(axis, query.item.image)
        axis.text(0.5, -0.03, rank, fontsize=6.5, color=QUIET, ha="center", va="top", transform=axis.transAxes)
        return
    axis.text(0, 0.56, _wrapped(query.item.text), fontsize=8.5, va="center", transform=axis.transAxes)
    axis.text(0, 0.02, rank, fontsize=6.5, color=QUIET, transform=axis.transAxes)


def _draw_answer(axis: Any, answer: Item, is_right: bool) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(color=RIGHT if is_right else WRONG, linewidth=3.5 if is_right else 1)
    if answer.image is None:
        weight = "bold" if is_right else "normal"
        axis.text(
            0.05, 0.5, _wrapped(answer.text), fontsize=7.5, va="center", transform=axis.transAxes, fontweight=weight
        )
    else:
        _show(axis, answer.image)
        name = _wrapped(answer.text, round(CELL * CHARACTERS_PER_INCH * 1.3), 2)
        axis.set_xlabel(name, fontsize=6.5, color=QUIET, labelpad=2)
    if is_right:  # beside the color, which not everybody sees
        axis.text(
            0.97, 0.96, "\u2713", color="white", fontsize=8, va="top", ha="right", transform=axis.transAxes,
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": RIGHT, "edgecolor": "none"},
        )  # fmt: skip


def _show(axis: Any, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="antialiased")


def _wrapped(text: str, width: int = round(TEXT_CELL * CHARACTERS_PER_INCH), most_lines: int = MOST_LINES) -> str:
    """Return a text in lines of at most `width` characters, cut if they are too many."""
    return _plain("\n".join(textwrap.wrap(text, width, max_lines=most_lines, placeholder=" ...")))


def _plain(text: str) -> str:
    """Return a text without signs that matplotlib takes for formulas."""
    return text.replace("$", r"\$")
