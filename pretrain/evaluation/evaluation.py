"""The interface between a run and what evaluates it: figures of the network on held-out data, the same on every rank.

pretraining.py and visual_tokenizer.py beside it are the evaluations of the two kinds of runs; a new kind of training
adds its own and hands it to `run_job`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from data_pipeline.loading.shard_dataset import ShardDataset
from data_pipeline.shards.index import ShardIndex
from pretrain.evaluation.chunks import Ranks

Network = Callable[..., Any]
"""A network, or an engine around one: called as in training, by all ranks in the same order."""
Figures = dict[str, float]
"""Figures by name, such as loss/mim; NaN if there was nothing to compute one from."""


class Evaluation(ABC):
    """Figures of a run on its held-out data, which is opened, and checked, when this is made."""

    names: tuple[str, ...]
    """Names of the figures."""

    @abstractmethod
    def figures(self, network: Network, ranks: Ranks) -> Figures:
        """Return the figures, the same on any number of ranks. All ranks call it. Raises Interrupted, and
        NotFiniteError if outputs of the network are not finite.

        Uses no random state, changes none of the network, and calls it with as many forwards on every rank.
        """

    def warnings(self, dataset: ShardDataset[Any, Any]) -> list[str]:
        """Return one line for each held-out folder that the run also trains on, and on samples that are left out."""
        return []


def trained_on(folders: Mapping[str, ShardIndex], dataset: ShardDataset[Any, Any]) -> list[str]:
    """Return a warning for each held-out folder whose samples are those of a source of training.

    folders: indexes by the name of the setting.
    """
    return [
        f"{setting} {index.folder} holds the samples of {source.name}, which the run trains on: its figures do not "
        "show whether anything was learned beyond them; give held-out data"
        for setting, index in folders.items()
        for sources in dataset.kinds.values()
        for source in sources.sources
        if source.index.fingerprint == index.fingerprint
    ]


def ratio(numerator: Tensor | float, denominator: Tensor | float) -> float:
    """Return a quotient, NaN for 0 / 0."""
    divisor = float(denominator)
    return float(numerator) / divisor if divisor else float("nan")


def left_out(num_samples: int) -> str:
    """Return a clause on the samples that an evaluation could not use; empty if there is none."""
    return f" (left out as unusable: {num_samples})" * (num_samples > 0)


def check_best(best: str | None, names: Iterable[str]) -> None:
    """Raise ValueError if the figure by which the best checkpoint is chosen is not among those of the run."""
    known = list(names)
    if best is not None and best not in known:
        raise ValueError(f"evaluation.best {best} is not a figure of this run; choose one of: {', '.join(known)}")
