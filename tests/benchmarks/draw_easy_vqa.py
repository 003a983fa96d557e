"""The picture of study_easy_vqa: accuracy over the epochs of finetuning."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_accuracies(curves: Mapping[str, Sequence[float]], levels: Mapping[str, float], path: Path) -> None:
    """Draw accuracies before finetuning and after each epoch, and levels as horizontal lines.

    curves: in 0..1, by what they are of, from epoch 0; levels: likewise.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axis = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, accuracies in curves.items():
        percents = [accuracy * 100 for accuracy in accuracies]
        axis.plot(range(len(percents)), percents, marker="o", markersize=4, label=f"{name}: {percents[-1]:.1f} %")
    for (name, level), style in zip(levels.items(), (":", "--"), strict=True):
        axis.axhline(level * 100, color="black", linestyle=style, linewidth=1, label=f"{name}: {level:.1%}")
    axis.set_xlabel("epochs of finetuning")
    axis.set_ylabel("right answers to the test questions in %")
    axis.set_ylim(0, 102)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
