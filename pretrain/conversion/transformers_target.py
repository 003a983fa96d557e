"""A folder for transformers as a target: the whole network, with the code that computes it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file
from torch import Tensor

from model.config import DualHeads, Heads
from model.multiway import MultiwayInputs
from model.pretrained import save_safetensors
from pretrain.conversion.source import Source
from pretrain.conversion.target import Target
from pretrain.conversion.transformers_card import front_matter, notes, python_lines
from pretrain.conversion.verify import states_without_padding
from pretrain.formats.role import Role
from pretrain.formats.transformers_folder import (
    CODE_FILES,
    TextSettings,
    check_transformers,
    features_of,
    heads_in,
    import_code,
    states_of,
    write_code,
    write_config,
    write_preprocessors,
)
from pretrain.formats.vocabulary import FINGERPRINT_KEY


class TransformersTarget(Target):
    """model.safetensors, config.json, code, tokenizer and their settings, as AutoModel and AutoProcessor read them."""

    name = "transformers"

    def __init__(self, role: Role | None):
        """Raises ValueError if there is a role."""
        if role is not None:
            raise ValueError("a folder for transformers holds every expert and serves every use; leave out --role")
        super().__init__(role)
        self.num_parameters = 0

    @classmethod
    def fitting(cls, role: Role | None, heads: Heads | None) -> Self:
        if heads is not None and not isinstance(heads, DualHeads):
            raise ValueError(
                f"the code for transformers has no head of {heads.TASK}; use --to safetensors, or --to beit3"
            )
        return cls(role)

    def check_verifiable(self) -> None:
        check_transformers()

    def write(self, source: Source, folder: Path) -> None:
        tensors, images = dict(source.weights()), source.preprocessing
        self.num_parameters = sum(tensor.numel() for tensor in tensors.values())
        metadata = {} if source.vocabulary is None else {FINGERPRINT_KEY: source.vocabulary.sha256}
        save_safetensors(tensors, folder / self.weights_name, metadata)
        text = None
        if source.vocabulary is not None:
            text = TextSettings(source.vocabulary.num_ids, images.text_length, images.caption_length)
        write_config(source.config, heads_in(tensors), text, folder)
        write_preprocessors(source.config, images, text, folder)
        write_code(folder)

    def tensors(self, source: Source, path: Path) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        return load_file(path), source.weights()

    def encoder(self, source: Source, path: Path) -> Callable[[MultiwayInputs], list[Tensor]]:
        # by the code in the folder, as transformers would, but without copying it into transformers' cache
        model = import_code(path.parent).Beit3Model.from_pretrained(path.parent).eval()

        def encode(inputs: MultiwayInputs) -> list[Tensor]:
            found = states_without_padding(inputs, states_of(model, inputs))
            if source.heads is not None and not len(inputs.caption_ids):
                found += features_of(model, inputs)
            return found

        return encode

    def card_entries(self, source: Source) -> dict[str, Any]:
        return {"code": list(CODE_FILES), "num_parameters": self.num_parameters}

    def loaders(self, source: Source, path: Path, card: dict[str, Any]) -> list[str]:
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
