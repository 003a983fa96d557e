"""Weights to convert: trimmed, incomplete, or not finite. CPU, seconds."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import MultiwayConfig
from model.pretrained import load_network, save_network
from pretrain.conversion.convert import convert
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.source import readable
from tests.pretrain.conversion.test_convert import reported
from tests.support.sources import source_of
from tests.support.tiny import CONFIG, tiny_model
from tests.support.tiny_run import TinyData

NUM_WORDS = 120


@pytest.fixture
def text_tokenizer(tiny_data: TinyData) -> Path:
    return tiny_data.folder / "text_tokenizer.spm"


@pytest.fixture
def ours(text_tokenizer: Path, tmp_path: Path) -> Path:
    """Return a folder of safetensors with a tokenizer of fewer ids than rows."""
    folder = tmp_path / "ours"
    folder.mkdir()
    model = tiny_model(vocab_size=NUM_WORDS)
    save_network(dict(model.state_dict()), model.encoder.config, folder)
    (folder / "text_tokenizer.spm").write_bytes(text_tokenizer.read_bytes())
    return folder


@pytest.mark.parametrize("to", ["beit3", "safetensors"])
def test_trimming_leaves_out_the_rows_that_the_tokenizer_does_not_reach(ours: Path, to: Any, tmp_path: Path) -> None:
    num_ids = TextTokenizer(ours / "text_tokenizer.spm").vocab_size
    assert num_ids < NUM_WORDS
    converted = convert(ConvertOptions(ours, tmp_path / "out", to, "safetensors", trim_vocab=True))
    assert converted.card["model"]["vocab_size"] == num_ids and converted.card["vocab_size_before"] == NUM_WORDS
    assert converted.card["text_tokenizer"]["unused_rows"] is None
    options = ConvertOptions(converted.path, tmp_path / "back", "safetensors", "beit3")
    folder = convert(options).path.parent if to == "beit3" else converted.path.parent
    whole, trimmed = load_network(ours), load_network(folder)
    for name in ("encoder.text_embed.word_embed.weight", "mlm_head.weight", "mlm_head.bias"):
        assert torch.equal(trimmed.get_parameter(name), whole.get_parameter(name)[:num_ids])
    assert f"--vocab_size {num_ids}" in report_of_base(replace(converted.source.config))


def report_of_base(config: MultiwayConfig) -> str:
    """Return the notes on a network of base's size with the vocabulary of a config."""
    sizes = MultiwayConfig()
    config = replace(
        config, dim=sizes.dim, depth=sizes.depth, num_heads=sizes.num_heads, ffn_dim=sizes.ffn_dim, patch_size=16
    )
    return reported(config, "fusion")


def without_tokenizer(folder: Path) -> None:
    (folder / "text_tokenizer.spm").unlink()


def with_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_tokenizer, "--trim-vocab needs the text tokenizer, and none lies beside"),
        (with_damaged_weights, "model.safetensors is"),
        (without_weights, "model.safetensors does not exist"),
    ],
)
def test_an_incomplete_source_is_refused(
    damage: Callable[[Path], None], message: str, ours: Path, tmp_path: Path
) -> None:
    damage(ours)
    with pytest.raises(ValueError, match=message):
        convert(ConvertOptions(ours, tmp_path / "out", "safetensors", "safetensors", trim_vocab=True))
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_named_with_their_step() -> None:
    weights = [("mim_head.bias", torch.zeros(2)), ("mlm_head.bias", torch.tensor([1.0, torch.nan]))]
    source = source_of(CONFIG, weights, origin="step 5 in runs/a")
    with pytest.raises(ValueError, match=r"step 5 in runs/a has NaN or infinity for mlm_head.bias"):
        list(readable(source).weights())


def test_weights_that_cannot_be_read_are_not_taken_for_a_full_disk() -> None:
    def failing() -> Iterator[tuple[str, torch.Tensor]]:
        yield "mim_head.bias", torch.zeros(2)
        raise OSError(5, "Input/output error")

    with pytest.raises(ValueError, match=r"runs/a cannot be read .Input/output error"):
        list(readable(source_of(CONFIG, origin="runs/a", weights=failing)).weights())
