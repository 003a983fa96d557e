"""The interface of a format to convert to: its files, how they are written, checked and loaded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from model.config import USES, Heads, Use
from model.multiway import MultiwayInputs
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME
from pretrain.conversion.source import Source
from pretrain.formats.role import Role

CARD_NAME = "card.json"
README_NAME = "README.md"
WITHOUT_TORCHVISION = """\
# if torchvision does not import (beside a CPU build of torch), first, in Imglish's environment:
# import pretrain.formats.cpu_torchvision
"""


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
    has_projections: ClassVar[bool] = True
    """Whether the format holds the projections of a dual encoder, so that its features can be compared."""

    def __init__(self, role: Role | None):
        self.role = role

    @classmethod
    def fitting(cls, role: Role | None, heads: Heads | None) -> Self:
        """Return the target for weights. role: the one asked for; heads: as for `build_network`.

        Raises ValueError if the role is none of the format, or of such a network.
        """
        return cls(role)

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

    @abstractmethod
    def write(self, source: Source, folder: Path) -> None:
        """Write the weights into a folder. Raises OSError if they cannot be written."""

    @abstractmethod
    def tensors(self, source: Source, path: Path) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        """Return the tensors of the file at `path`, and those that it must hold, by the names of the format."""

    @abstractmethod
    def encoder(self, source: Source, path: Path) -> Callable[[MultiwayInputs], list[Tensor]]:
        """Return a function from inputs to outputs, as verify.outputs lists them, of the file at `path`."""

    def card_entries(self, source: Source) -> dict[str, Any]:
        """Return the entries of a card that only this format has."""
        return {}

    def left_out(self, source: Source) -> list[str]:
        """Return what the format has no place for, one sentence each: printed, and a part of README.md."""
        return []

    def readme_front(self, card: dict[str, Any]) -> str:
        """Return the YAML with which README.md begins, for hubs of models; "" if the format has none."""
        return ""

    @abstractmethod
    def loaders(self, source: Source, path: Path, card: dict[str, Any]) -> list[str]:
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
