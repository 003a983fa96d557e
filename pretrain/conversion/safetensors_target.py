"""Our own format as a target: every expert, for every use, loaded by one call."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.multiway import MultiwayInputs
from model.pretrained import load_network, save_network
from pretrain.conversion.source import Source
from pretrain.conversion.target import Target
from pretrain.conversion.verify import outputs
from pretrain.formats.role import Role
from pretrain.formats.vocabulary import FINGERPRINT_KEY

CODE = """\
from model import load_pretrained  # of the project that wrote them
model = load_pretrained(".")"""


class SafetensorsTarget(Target):
    """model.safetensors and config.json, as model.load_pretrained and --initial-weights read them."""

    name = "safetensors"

    def __init__(self, role: Role | None):
        """Raises ValueError if there is a role."""
        if role is not None:
            raise ValueError("safetensors hold every expert and serve every use; leave out --role")
        super().__init__(role)

    def write(self, source: Source, folder: Path) -> None:
        metadata = {} if source.vocabulary is None else {FINGERPRINT_KEY: source.vocabulary.sha256}
        save_network(dict(source.weights()), source.config, folder, metadata, source.heads)

    def tensors(self, source: Source, path: Path) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        return load_file(path), source.weights()

    def encoder(self, source: Source, path: Path) -> Callable[[MultiwayInputs], list[Tensor]]:
        model = load_network(path.parent)
        return lambda inputs: outputs(model, inputs)

    def loaders(self, source: Source, path: Path, card: dict[str, Any]) -> list[str]:
        return [f'loaded by model.load_pretrained("{path.parent}"), and as --initial-weights {path.parent}']

    def readme_code(self, card: dict[str, Any]) -> str:
        return CODE
