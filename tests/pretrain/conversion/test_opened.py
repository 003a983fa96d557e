"""Networks opened for use from everything that holds one. CPU, seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.dual_encoder import DualEncoder
from model.pretrained import save_network
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.conversion.convert import convert
from pretrain.conversion.opened import open_network
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.sources import preprocessing_of_run
from pretrain.formats.preprocessing import PREPROCESSING_NAME, Preprocessing
from tests.pretrain.conversion.test_sources import microsofts
from tests.pretrain.formats.test_beit3_contents import tuned_state
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model
from tests.support.tiny_run import TinyData


def test_a_run_and_its_exports_give_the_same_network_and_preprocessing(two_ranks: Path, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    ours = convert(ConvertOptions(two_ranks, tmp_path / "ours", to="safetensors")).path.parent
    theirs = convert(ConvertOptions(two_ranks, tmp_path / "theirs", role="dual", verify=False)).path
    expected = load_model(checkpoint).state_dict()
    for path in (two_ranks, checkpoint.folder, ours):
        opened = open_network(path)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in opened.network.state_dict().items())
        assert not opened.network.training
        assert opened.need_tokenizer().read_bytes() == checkpoint.text_tokenizer.read_bytes()
        written = replace(preprocessing_of_run(checkpoint.config), tokenizer=opened.need_tokenizer().name)
        assert opened.preprocessing == written
    config = checkpoint.config.model
    inputs = replace(
        tiny_inputs(2, 0, 2),
        images=torch.randn(2, 3, config.image_size, config.image_size),
        image_mask=torch.zeros(2, config.num_patches, dtype=torch.bool),
    )
    with torch.no_grad():
        one, other = (open_network(path).network.encoder(inputs) for path in (ours, theirs))
    torch.testing.assert_close(one.images, other.images, atol=2e-5, rtol=0)
    assert open_network(theirs).preprocessing == open_network(ours).preprocessing


def test_a_file_of_one_role_is_refused_for_other_uses(two_ranks: Path, tmp_path: Path) -> None:
    assert find_checkpoint(two_ranks).config.model.num_vl_layers > 0
    fusion = convert(ConvertOptions(two_ranks, tmp_path / "fusion", role="fusion", verify=False))
    dual = convert(ConvertOptions(two_ranks, tmp_path / "dual", role="dual", verify=False))
    open_network(fusion.path).check_use("pair")
    with pytest.raises(ValueError, match="exact for image-text pairs only; open the run, or convert it with --to saf"):
        open_network(fusion.path).check_use("text")
    open_network(dual.path).check_use("image")
    with pytest.raises(ValueError, match="exact for images alone and texts alone only"):
        open_network(dual.path).check_use("pair")
    back = convert(ConvertOptions(fusion.path, tmp_path / "back", from_="beit3", verify=False))
    assert any("exact for image-text pairs only, wrong for everything else" in note for note in back.source.notes)


def test_the_moving_average_is_opened_by_choice(two_ranks: Path, tmp_path: Path) -> None:
    expected = load_model(find_checkpoint(two_ranks, PretrainConfig), "ema").state_dict()
    opened = open_network(two_ranks, "ema")
    assert torch.equal(opened.network.state_dict()["mlm_head.bias"], expected["mlm_head.bias"])
    assert "the moving average of the weights" in opened.origin
    ours = convert(ConvertOptions(two_ranks, tmp_path / "ours", to="safetensors", verify=False)).path.parent
    with pytest.raises(ValueError, match="ours has one kind of weights; --weights ema is for our checkpoints"):
        open_network(ours, "ema")
    with pytest.raises(ValueError, match="weights 'EMA' must be one of raw, ema"):
        open_network(two_ranks, "EMA")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({}, Preprocessing(32, text_length=12, caption_length=12)),
        (
            {"config": {"data": {"text_length": 10, "caption_length": 8}}},
            Preprocessing(32, text_length=10, caption_length=8),
        ),
    ],
    ids=["of unknown origin", "of a run"],
)
def test_a_folder_of_an_earlier_version_has_the_lengths_of_its_run(
    card: dict[str, Any], expected: Preprocessing, tmp_path: Path
) -> None:
    save_network(dict(tiny_model().state_dict()), CONFIG, tmp_path)
    (tmp_path / "card.json").write_text(json.dumps(card))
    opened = open_network(tmp_path)
    assert opened.preprocessing == expected and not (tmp_path / PREPROCESSING_NAME).exists()
    with pytest.raises(ValueError, match="no text tokenizer lies beside .*; put the one that the weights were trained"):
        opened.need_tokenizer()


def test_microsofts_itc_file_is_opened_as_a_dual_encoder(tmp_path: Path) -> None:
    state = tuned_state("retrieval")
    path = microsofts(state, tmp_path / "theirs" / "beit3_itc.pth")
    path.with_suffix(".json").write_text('{"model": {"num_heads": 4}}')
    opened = open_network(path)
    assert isinstance(opened.network, DualEncoder) and opened.origin == str(path)
    assert torch.equal(opened.network.state_dict()["vision_head.weight"], state["vision_head.weight"])
    assert opened.tokenizer is None and opened.preprocessing.image_size == CONFIG.image_size


def test_what_holds_no_network_is_refused(tiny_data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist; give a run, a checkpoint folder, an export or"):
        open_network(tmp_path / "nowhere")
    path = microsofts(tuned_state("vqav2"), tmp_path / "theirs" / "beit3_vqa.pth")
    path.with_suffix(".json").write_text('{"model": {"num_heads": 4}}')
    with pytest.raises(ValueError, match="beit3_vqa.pth has no mim_head and .*; pass --new-heads"):
        open_network(path)
    with pytest.raises(ValueError, match="theirs is a folder with beit3_vqa.pth; give such a file"):
        open_network(path.parent)
    with pytest.raises(ValueError):
        open_network(tiny_data.folder)
