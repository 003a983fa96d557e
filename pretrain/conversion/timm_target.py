"""timm's image towers as a target: the vision expert alone, with the head of a network of classify."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file
from torch import Tensor

from model.config import ClassHead, DualHeads, Heads, Use
from model.multiway import MultiwayInputs
from pretrain.conversion.source import Source
from pretrain.conversion.target import WITHOUT_TORCHVISION, Target, import_note
from pretrain.formats.role import Role
from pretrain.formats.timm import import_timm, save_timm, timm_entries, timm_features

CODE = (
    "# pip install timm\n"
    + WITHOUT_TORCHVISION
    + """\
import timm
tower = timm.create_model("local-dir:.", pretrained=True)"""
)


class TimmTarget(Target):
    """model.safetensors and config.json, as timm reads a local folder."""

    name = "timm"
    has_words = False
    has_masks = False
    has_projections = False

    def __init__(self, role: Role | None):
        """Raises ValueError for a role with texts."""
        if role not in (None, "vision"):
            raise ValueError(f"timm's image towers have no texts, so role {role!r} cannot be exact; use --role vision")
        super().__init__("vision")

    @classmethod
    def fitting(cls, role: Role | None, heads: Heads | None) -> Self:
        if heads is not None and not isinstance(heads, DualHeads | ClassHead):
            raise ValueError(
                f"a network of {heads.TASK} sees images with texts, timm's image towers see images alone; convert the "
                "weights that it began with"
            )
        return cls(role)

    @property
    def uses(self) -> tuple[Use, ...]:
        return ("image",)

    def check_verifiable(self) -> None:
        import_timm()

    def write(self, source: Source, folder: Path) -> None:
        save_timm(source.weights(), source.config, source.preprocessing, folder, class_head(source))

    def tensors(self, source: Source, path: Path) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        return load_file(path), timm_entries(source.weights(), class_head(source))

    def encoder(self, source: Source, path: Path) -> Callable[[MultiwayInputs], list[Tensor]]:
        return lambda inputs: [timm_features(path.parent, inputs.images, class_head(source))]

    def loaders(self, source: Source, path: Path, card: dict[str, Any]) -> list[str]:
        return [f'timm loads it{import_note()}: timm.create_model("local-dir:{path.parent}", pretrained=True)']

    def readme_code(self, card: dict[str, Any]) -> str:
        return CODE


def class_head(source: Source) -> ClassHead | None:
    """Return the head of a network of classify, None for any other network, whose heads timm has no place for."""
    return source.heads if isinstance(source.heads, ClassHead) else None
