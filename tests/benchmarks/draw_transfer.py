"""The two pictures of study_transfer: recall of each seed, and queries with their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import torch

from pretrain.reporting.retrieval_gallery import text_queries
from pretrain.reporting.retrieval_picture import draw_retrieval
from tests.benchmarks.transfer_figures import Features, Gallery, Reading

SIDE = 64
"""Side of a picture of the gallery in pixels."""


def draw_gallery(features: Features, gallery: Gallery, asked: Sequence[str], path: Path, title: str) -> None:
    """Draw the names of some concepts with the pictures that are found first.

    asked: hexcodes; of those that the gallery lacks, as a part of it may, others are shown.
    """
    places = {picture.stem: place for place, picture in enumerate(gallery.pictures)}
    codes = [*(code for code in asked if code in places), *places][: len(asked)]
    queries = text_queries(
        features.images,
        features.texts,
        torch.arange(len(gallery.names)),
        gallery.names,
        lambda place: gallery.image(place, SIDE),
        [places[code] for code in codes],
        gallery.names,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_retrieval(queries, path, title)


def draw_seeds(readings: Mapping[str, Sequence[Reading]], titles: Mapping[str, str], path: Path) -> None:
    """Draw R@5 of each training, a bar for the mean and a dot per seed.

    readings: by training, a reading per seed; titles: by training.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "(A) an artist never seen, text to image": ("r5_text_to_image", "chance_r5"),
        "(A) image to text": ("r5_image_to_text", "chance_r5"),
        "(B) concepts never seen": ("r5_unseen_concepts", "chance_r5_unseen_concepts"),
    }
    levels = asdict(next(iter(readings.values()))[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 3.6), layout="constrained")
    for axis, (title, (field, chance)) in zip(axes, panels.items(), strict=True):
        for number, (name, found) in enumerate(readings.items()):
            values = [getattr(reading, field) * 100 for reading in found]
            axis.bar(number, mean(values), width=0.7, color=f"C{number}", label=titles[name])
            axis.plot([number] * len(values), values, "k.", markersize=5)
        axis.axhline(levels[chance] * 100, color="black", linestyle="--", linewidth=1, label="chance")
        axis.set_xticks([])
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("R@5 in %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
