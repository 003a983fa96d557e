"""A trained network, opened for use from whatever holds it: a run, a checkpoint, a folder of ours, Microsoft's file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from model.config import USES, Use
from model.networks import Network
from model.pretrained import WEIGHTS_NAME
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.weights import model_of
from pretrain.config.run_config import WeightKind
from pretrain.conversion.source import Source, in_words, readable
from pretrain.conversion.sources import beit3_source, checkpoint_source, safetensors_source
from pretrain.formats.preprocessing import Preprocessing
from pretrain.formats.vocabulary import EXPORTED_NAME, MICROSOFTS_NAME


@dataclass(frozen=True)
class Opened:
    """A network, and what its inputs are made by."""

    network: Network
    """In evaluation mode, float32, on the CPU."""
    tokenizer: Path | None
    """The text tokenizer that lies beside the weights; None: there is none."""
    preprocessing: Preprocessing
    origin: str
    """Where the weights are from, in words."""
    exact_uses: tuple[Use, ...] = USES
    """Kinds of samples that the weights are exact for."""

    def check_use(self, use: Use) -> None:
        """Raise ValueError if the weights are wrong for this kind of samples."""
        if use not in self.exact_uses:
            raise ValueError(
                f"{self.origin} holds one role of a network with vision-language experts, exact for "
                f"{in_words(self.exact_uses)} only; open the run, or convert it with --to safetensors"
            )

    def need_tokenizer(self) -> Path:
        """Return the text tokenizer. Raises ValueError, with the remedy, if there is none."""
        if self.tokenizer is None:
            raise ValueError(
                f"no text tokenizer lies beside {self.origin}; put the one that the weights were trained with there as "
                f"{EXPORTED_NAME} (Microsoft's as {MICROSOFTS_NAME})"
            )
        return self.tokenizer


def open_network(path: Path, weights: WeightKind = "raw") -> Opened:
    """Return the network of a run (its newest checkpoint), a checkpoint folder, RUN/checkpoints/best, a folder that
    `--to safetensors` wrote, or a file of Microsoft's.

    weights: of a checkpoint: raw, as trained, or ema, their moving average. Raises ValueError if the path is none of
    them, if it does not have these weights, or if they are not a whole network.
    """
    if weights not in get_args(WeightKind):
        raise ValueError(f"weights {weights!r:.60} must be one of {', '.join(get_args(WeightKind))}")
    source = _source(resolve_best(path), weights)
    tokenizer = None if source.vocabulary is None else source.vocabulary.path
    preprocessing = replace(source.preprocessing, tokenizer=None if tokenizer is None else tokenizer.name)
    network = model_of(source.config, readable(source).weights(), source.heads)
    return Opened(network, tokenizer, preprocessing, source.origin, source.exact_uses)


def _source(path: Path, weights: WeightKind) -> Source:
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a run, a checkpoint folder, an export or Microsoft's file")
    if path.is_dir() and not (path / WEIGHTS_NAME).is_file():
        files = sorted(path.glob("beit3_*.pth"))
        if files:
            raise ValueError(f"{path} is a folder with {', '.join(file.name for file in files)}; give such a file")
        return checkpoint_source([path], weights)
    if weights != "raw":
        raise ValueError(f"{path} has one kind of weights; --weights {weights} is for our checkpoints, leave it out")
    if path.is_dir():
        return safetensors_source(path)
    return beit3_source(path, num_heads=None, new_heads=False, num_visual_tokens=None)
