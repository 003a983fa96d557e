"""A folder for transformers as a target: the whole network, with the code that computes it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.config import MultiwayConfig
from model.multiway import MultiwayInputs
from model.pretrained import save_safetensors
from pretrain.conversion.target import NamedTensors, Target
from pretrain.conversion.transformers_card import front_matter, notes, python_lines
from pretrain.conversion.verify import states_without_padding
from pretrain.formats.role import Role
from pretrain.formats.transformers_folder import (
    CODE_FILES,
    TextSettings,
    check_transformers,
    heads_in,
    import_code,
    states_of,
    write_code,
    write_config,
    write_preprocessors,
)
from pretrain.formats.vocabulary import FINGERPRINT_KEY, Vocabulary


class TransformersTarget(Target):
    """model.safetensors, config.json, code, tokenizer and their settings, as AutoModel and AutoProcessor read them."""

    name = "transformers"

    def __init__(self, role: Role | None):
        """Raises ValueError if there is a role."""
        if role is not None:
            raise ValueError("a folder for transformers holds every expert and serves every use; leave out --role")
        super().__init__(role)
        self.text: TextSettings | None = None
        self.entries: dict[str, Any] = {}

    def check_verifiable(self) -> None:
        check_transformers()

    def prepare(self, vocabulary: Vocabulary | None, provenance: Mapping[str, Any]) -> None:
        """Take the number of ids and the lengths of texts."""
        data = provenance.get("config", {}).get("data", {})
        lengths = (data.get("text_length"), data.get("caption_length"))
        self.text = None if vocabulary is None else TextSettings(vocabulary.num_ids, *lengths)

    def write(self, weights: NamedTensors, config: MultiwayConfig, folder: Path, tokenizer_sha256: str | None) -> None:
        tensors = dict(weights)
        metadata = {} if tokenizer_sha256 is None else {FINGERPRINT_KEY: tokenizer_sha256}
        save_safetensors(tensors, folder / self.weights_name, metadata)
        heads = heads_in(tensors)
        write_config(config, heads, self.text, folder)
        write_preprocessors(config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), self.text, folder)
        write_code(folder)
        num_parameters = sum(tensor.numel() for tensor in tensors.values())
        self.entries = {"code": list(CODE_FILES), "num_parameters": num_parameters, "heads": heads}

    def tensors(
        self, path: Path, weights: NamedTensors, config: MultiwayConfig
    ) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        return load_file(path), iter(weights)

    def encoder(self, path: Path, config: MultiwayConfig) -> Callable[[MultiwayInputs], list[Tensor]]:
        # by the code in the folder, as transformers would, but without copying it into transformers' cache
        model = import_code(path.parent).Beit3Model.from_pretrained(path.parent).eval()
        return lambda inputs: states_without_padding(inputs, states_of(model, inputs))

    def card_entries(self, config: MultiwayConfig, vocabulary: Vocabulary | None) -> dict[str, Any]:
        return self.entries

    def loaders(self, path: Path, card: dict[str, Any], config: MultiwayConfig) -> list[str]:
        """Return lines on how transformers loads the folder, and on the code that it then executes."""
        return [
            f'transformers loads it: AutoModel.from_pretrained("{path.parent}", trust_remote_code=True)',
            f"trust_remote_code executes the code in that folder ({', '.join(card['code'])}): read it first",
        ]

    def readme_front(self, card: dict[str, Any]) -> str:
        return front_matter(card)

    def readme_notes(self, card: dict[str, Any]) -> list[str]:
        return notes(card)

    def readme_code(self, card: dict[str, Any]) -> str:
        return python_lines(card)
