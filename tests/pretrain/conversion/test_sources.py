"""Kinds of sources: Microsoft's files, also tuned ones, folders of ours, and their text tokenizers. CPU, seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.samples.answers import answer_lines
from model.config import DualHeads, TaskHead, VqaHead
from model.dual_encoder import DualEncoder
from model.pretrained import load_network, read_heads, save_network
from pretrain.conversion.convert import convert, open_source, report
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.verify import TOLERANCE
from pretrain.formats.beit3 import file_entries
from pretrain.formats.beit3_file import load_beit3
from pretrain.formats.beit3_tasks import ROLES, in_words
from pretrain.formats.preprocessing import Preprocessing, default_preprocessing, read_preprocessing
from tests.pretrain.formats.test_beit3_contents import HEADS, pretrained_state, tuned_state
from tests.support.tiny import CONFIG, TINY_HEADS, tiny_dual_encoder, tiny_model, tiny_task_network
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


def microsofts(state: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": state}, path)
    return path


def test_a_tuned_file_is_converted_and_its_missing_parts_are_reported(text_tokenizer: Path, tmp_path: Path) -> None:
    path = microsofts(tuned_state("retrieval"), tmp_path / "theirs" / "beit3_itc.pth")
    options = ConvertOptions(path, tmp_path / "out", from_="beit3", num_heads=CONFIG.num_heads, new_heads=True)
    converted = convert(replace(options, num_visual_tokens=9))
    said = report(converted)
    assert "initialized anew, as the file has none: mim_head, mlm_head" in said
    assert "without --new-heads the result is a dual encoder, which keeps them" in said
    assert f"left out, as only its task uses them: {', '.join(sorted(HEADS['retrieval']))}" in said
    assert "no text tokenizer (text_tokenizer.spm or Microsoft's beit3.spm) lies in" in said
    assert converted.card["left_out"] == sorted(HEADS["retrieval"])
    assert load_network(tmp_path / "out").encoder.config.num_visual_tokens == 9


def test_an_itc_file_becomes_a_dual_encoder_and_the_same_file_again(text_tokenizer: Path, tmp_path: Path) -> None:
    network = tiny_dual_encoder(attention="decoupled", num_vl_layers=0)
    state = dict(file_entries(network.state_dict().items(), network.encoder.config, "dual", DualHeads()))
    path = microsofts(state, tmp_path / "theirs" / "beit3_base_itc_patch16_224.pth")
    (path.parent / "beit3.spm").write_bytes(text_tokenizer.read_bytes())
    converted = convert(ConvertOptions(path, tmp_path / "out", from_="beit3", num_heads=CONFIG.num_heads))
    assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
    assert converted.card["left_out"] == converted.card["new_heads"] == []
    assert "note: it is a dual encoder, and so is the result" in report(converted)
    ours = load_network(tmp_path / "out")
    assert isinstance(ours, DualEncoder) and ours.heads == DualHeads()
    assert read_preprocessing(tmp_path / "out") == Preprocessing(32, tokenizer="text_tokenizer.spm")
    again = convert(ConvertOptions(tmp_path / "out", tmp_path / "again", "beit3", "safetensors")).path
    found = load_beit3(again)
    assert again.name == "beit3_dual.pth" and found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    larger = convert(ConvertOptions(again, tmp_path / "larger", "timm", "beit3", image_size=48))
    assert larger.largest_difference is not None and larger.largest_difference <= TOLERANCE


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_a_finetuned_file_becomes_the_network_of_its_task_and_the_same_file_again(
    heads: TaskHead, text_tokenizer: Path, tmp_path: Path
) -> None:
    network = tiny_task_network(heads, attention="decoupled", num_vl_layers=0, vocab_size=NUM_WORDS)
    role = ROLES[heads.TASK]
    state = dict(file_entries(network.state_dict().items(), network.encoder.config, role, heads))
    path = microsofts(state, tmp_path / "theirs" / "beit3_finetuned.pth")
    (path.parent / "beit3.spm").write_bytes(text_tokenizer.read_bytes())
    (path.parent / "answer2label.txt").write_text(answer_lines([f"answer {number}" for number in range(7)]))
    converted = convert(ConvertOptions(path, tmp_path / "out", from_="beit3", num_heads=CONFIG.num_heads))
    assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
    assert converted.card["left_out"] == converted.card["new_heads"] == []
    assert f"note: it is {in_words(heads)}, and so is the result" in report(converted)
    ours = load_network(tmp_path / "out")
    assert type(ours) is type(network) and read_heads(tmp_path / "out") == heads
    found = read_preprocessing(tmp_path / "out")
    assert found == default_preprocessing(ours.encoder.config, "text_tokenizer.spm", heads)
    again = convert(ConvertOptions(tmp_path / "out", tmp_path / "again", "beit3", "safetensors")).path
    written = load_beit3(again)
    assert again.name == f"beit3_{role}.pth" and written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    is_vqa = heads == VqaHead(7)
    for folder in (tmp_path / "out", tmp_path / "again"):
        assert (folder / "answer2label.txt").is_file() == is_vqa
        assert ("in their order: answer2label.txt" in (folder / "README.md").read_text()) == is_vqa


def test_a_finetuned_file_starts_pretraining_with_new_heads(tmp_path: Path) -> None:
    network = tiny_task_network(VqaHead(7), attention="decoupled", num_vl_layers=0)
    state = dict(file_entries(network.state_dict().items(), network.encoder.config, "fusion", VqaHead(7)))
    path = microsofts(state, tmp_path / "theirs" / "beit3_vqa.pth")
    options = ConvertOptions(path, tmp_path / "out", from_="beit3", num_heads=CONFIG.num_heads, new_heads=True)
    converted = convert(options)
    said = report(converted)
    assert "initialized anew, as the file has none: mim_head, mlm_head, encoder.layer_norm" in said
    assert "without --new-heads the result is finetuned for vqa, with 7 answers, which keeps them" in said
    assert "head.3.weight" in converted.card["left_out"] and read_heads(tmp_path / "out") is None


def test_microsofts_tokenizer_beside_their_file_is_copied(text_tokenizer: Path, tmp_path: Path) -> None:
    path = microsofts(pretrained_state(), tmp_path / "theirs" / "beit3_base.pth")
    (path.parent / "text_tokenizer.spm").write_bytes(b"of an export in the same folder")
    (path.parent / "beit3.spm").write_bytes(text_tokenizer.read_bytes())
    convert(ConvertOptions(path, tmp_path / "out", from_="beit3", num_heads=CONFIG.num_heads))
    assert (tmp_path / "out" / "text_tokenizer.spm").read_bytes() == text_tokenizer.read_bytes()


def test_a_tokenizer_of_other_weights_is_not_taken_for_that_of_a_folder(ours: Path, tmp_path: Path) -> None:
    folder = convert(ConvertOptions(ours, tmp_path / "out", "safetensors", "safetensors")).path.parent
    (folder / "text_tokenizer.spm").write_bytes(b"another")
    with pytest.raises(ValueError, match="is not the text tokenizer that the weights beside it were trained with"):
        open_source(ConvertOptions(folder, tmp_path, from_="safetensors"))


def test_the_length_of_texts_survives_the_padding(ours: Path, tmp_path: Path) -> None:
    path = convert(ConvertOptions(ours, tmp_path / "out", "beit3", "safetensors", role="dual")).path
    convert(ConvertOptions(path, tmp_path / "back", from_="beit3"))
    assert load_network(tmp_path / "back").encoder.config.max_text_length == CONFIG.max_text_length


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("[]", "does not hold a JSON object"),
        ('{"model": 5}', "is not a card of pretrain.convert"),
        ('{"model": {"num_heads": "6"}}', "has num_heads '6', not a number"),
        ('{"model": {"num_heads": 4, "max_text_length": true}}', "has max_text_length True, not a number"),
        ('{"model": {"num_heads": 5}}', "num_heads 5 must divide dim 32"),
        ("[" * 100_000, "is not valid JSON"),
        ("\udcff", "is not valid JSON"),
    ],
)
def test_a_damaged_card_is_reported_in_one_sentence(card: str, message: str, tmp_path: Path) -> None:
    path = microsofts(pretrained_state(), tmp_path / "theirs" / "beit3.pth")
    path.with_suffix(".json").write_bytes(card.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        open_source(ConvertOptions(path, tmp_path / "out", from_="beit3"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new_heads": True}, "lacks no head; leave out --new-heads"),
        ({"new_heads": True, "num_visual_tokens": 9}, "has a masked-image head; leave out --num-visual-tokens"),
    ],
    ids=str,
)
def test_an_option_that_does_nothing_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = microsofts(pretrained_state(), tmp_path / "theirs" / "beit3.pth")
    options = ConvertOptions(path, tmp_path / "out", from_="beit3", num_heads=CONFIG.num_heads)
    with pytest.raises(ValueError, match=message):
        convert(replace(options, **changes))
