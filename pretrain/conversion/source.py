"""Weights to convert, with what is known of them; and changes of image size and vocabulary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model.config import USES, Heads, MultiwayConfig, Use
from model.embeddings import interpolate_positions
from model.weight_checks import check_weight
from pretrain.formats.preprocessing import Preprocessing
from pretrain.formats.vocabulary import EXPORTED_NAME, WORD_ROWS, Vocabulary

Weights = Callable[[], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Source:
    """Weights to convert."""

    origin: str
    """Name of the source, for messages."""
    config: MultiwayConfig
    weights: Weights
    """Function that yields each parameter of the network; can be called again."""
    vocabulary: Vocabulary | None
    preprocessing: Preprocessing
    """How images and texts become inputs; `exported_preprocessing` names the tokenizer too."""
    provenance: dict[str, Any]
    """Entries of the card that say where the weights come from."""
    exact_uses: tuple[Use, ...] = USES
    """Kinds of samples that the weights are exact for: fewer in a file of Microsoft's format that holds one role of a
    network with vision-language experts."""
    heads: Heads | None = None
    """Heads of a DualEncoder or of the network of a task; None: the network is a MaskedDataModel."""
    labels: Path | None = None
    """List of the answers or classes of a head; None: there is none beside the weights."""
    notes: tuple[str, ...] = ()
    """Notes for the user, printed by the command."""

    @property
    def exported_preprocessing(self) -> Preprocessing:
        """The content of preprocessing.json beside the converted weights."""
        return replace(self.preprocessing, tokenizer=None if self.vocabulary is None else EXPORTED_NAME)


def in_words(uses: tuple[Use, ...]) -> str:
    """Return uses for a message."""
    return "image-text pairs" if uses == ("pair",) else "images alone and texts alone"


def resized(source: Source, image_size: int) -> Source:
    """Return the same weights for images of another size. Raises ValueError if patches do not divide it."""
    config = replace(source.config, image_size=image_size)

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in source.weights():
            if name == "encoder.vision_embed.pos_embed":
                tensor = interpolate_positions(tensor, (config.grid_size, config.grid_size))
            yield name, tensor

    return replace(
        source,
        config=config,
        weights=weights,
        preprocessing=replace(source.preprocessing, image_size=image_size),
        provenance={**source.provenance, "image_size": image_size},
    )


def trimmed(source: Source) -> Source:
    """Return the same weights without the rows that no id of the text tokenizer reaches.

    Raises ValueError if there is no tokenizer, or if it has more ids than the model has rows.
    """
    if source.vocabulary is None:
        raise ValueError(f"--trim-vocab needs the text tokenizer, and none lies beside {source.origin}")
    num_ids = source.vocabulary.num_ids
    if num_ids > source.config.vocab_size:
        raise ValueError(
            f"{source.vocabulary.path} has {num_ids} ids, more than the {source.config.vocab_size} rows of words in "
            f"{source.origin}: it is the text tokenizer of other weights"
        )

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in source.weights():
            yield name, tensor[:num_ids].clone() if name.startswith(WORD_ROWS) else tensor

    provenance = {**source.provenance, "vocab_size_before": source.config.vocab_size}
    return replace(source, config=replace(source.config, vocab_size=num_ids), weights=weights, provenance=provenance)


def readable(source: Source) -> Source:
    """Return the same weights; reading them raises ValueError, naming the source, on failure and for NaN or infinity.

    So any OSError during conversion comes from writing.
    """

    def weights() -> Iterator[tuple[str, Tensor]]:
        try:
            for name, tensor in source.weights():
                check_weight(source.origin, name, tensor, tensor.shape, (tensor.dtype,))
                yield name, tensor
        except OSError as error:
            raise ValueError(f"{source.origin} cannot be read ({error.strerror or error})") from error

    return replace(source, weights=weights)
