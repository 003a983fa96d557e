"""The interface of a format to convert to: its files, how they are written, checked and loaded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from model.config import USES, MultiwayConfig, Use
from model.multiway import MultiwayInputs
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME
from pretrain.formats.role import Role
from pretrain.formats.vocabulary import Vocabulary

CARD_NAME = "card.json"
README_NAME = "README.md"
WITHOUT_TORCHVISION = """\
# if torchvision does not import (beside a CPU build of torch), first, in Imglish's environment:
# import pretrain.formats.cpu_torchvision
"""
NamedTensors = Iterable[tuple[str, Tensor]]


def import_note() -> str:
    """Return what must be imported before timm or torchscale in this environment, as part of a message."""
    return "" if torch.version.cuda is not None else " (here after `import pretrain.formats.cpu_torchvision`)"


class Target(ABC):
    """A format, and the role that the weights are written for."""

    name: ClassVar[str]
    """Value of --to, and `format` in a card."""
    has_words: ClassVar[bool] = True
    """Whether the format holds the word embedding and the masked-word head."""
    has_masks: ClassVar[bool] = True
    """Whether the format holds the mask token, so that images with hidden patches can be compared."""

    def __init__(self, role: Role | None):
        self.role = role

    @property
    def weights_name(self) -> str:
        return WEIGHTS_NAME

    @property
    def card_name(self) -> str:
        return CARD_NAME

    @property
    def opened_first(self) -> str:
        """Name of the file that a loader opens first. It is written last, so that no loader sees half an export."""
        return CONFIG_NAME

    @property
    def uses(self) -> tuple[Use, ...]:
        """Kinds of samples that the weights must be exact for."""
        return USES

    def check_verifiable(self) -> None:
        """Raise ValueError if the weights cannot be verified here, before anything is written."""
        return

    def prepare(self, vocabulary: Vocabulary | None, provenance: Mapping[str, Any]) -> None:
        """Take from the text tokenizer and the entries of the card what the files beside the weights need."""
        return

    @abstractmethod
    def write(self, weights: NamedTensors, config: MultiwayConfig, folder: Path, tokenizer_sha256: str | None) -> None:
        """Write the weights into a folder. Raises OSError if they cannot be written."""

    @abstractmethod
    def tensors(
        self, path: Path, weights: NamedTensors, config: MultiwayConfig
    ) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        """Return the tensors of the file at `path`, and those that it must hold, by the names of the format."""

    @abstractmethod
    def encoder(self, path: Path, config: MultiwayConfig) -> Callable[[MultiwayInputs], list[Tensor]]:
        """Return a function from inputs to hidden states that is computed from the file at `path`."""

    def card_entries(self, config: MultiwayConfig, vocabulary: Vocabulary | None) -> dict[str, Any]:
        """Return the entries of a card that only this format has."""
        return {}

    def readme_front(self, card: dict[str, Any]) -> str:
        """Return the YAML with which README.md begins, for hubs of models; "" if the format has none."""
        return ""

    @abstractmethod
    def loaders(self, path: Path, card: dict[str, Any], config: MultiwayConfig) -> list[str]:
        """Return the lines that the command prints about programs that load the weights at `path`."""

    @abstractmethod
    def readme_code(self, card: dict[str, Any]) -> str:
        """Return the Python lines that load the weights from within their folder."""

    def readme_notes(self, card: dict[str, Any]) -> list[str]:
        """Return the sentences of README.md on the uses that the weights are exact for."""
        return []

    def readme_commands(self, card: dict[str, Any]) -> list[str]:
        """Return the lines of README.md after the Python lines."""
        return []
