"""Weights to start from: runs, checkpoints and exports, and what they must have. CPU, seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.samples.answers import answer_lines
from model.config import CaptionHead, ClassHead, DualHeads, Nlvr2Head, TaskHead, VqaHead
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from model.networks import build_network
from model.pretrained import WEIGHTS_NAME, save_network
from pretrain.checkpoints.initial_weights import (
    FINAL_NORM,
    HEADS,
    LABEL_ROWS,
    InitialWeights,
    check_initial_weights,
    labels_there,
    load_initial_weights,
    open_initial_weights,
    weights_file,
)
from pretrain.checkpoints.manifest import MANIFEST_NAME
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.conversion.convert import convert
from pretrain.conversion.options import ConvertOptions
from pretrain.formats.beit3_file import save_beit3
from tests.support.tiny import CONFIG, tiny_dual_encoder, tiny_model, tiny_task_network


def given(model: torch.nn.Module, **changes: Any) -> InitialWeights:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return InitialWeights(Path("there"), replace(CONFIG, **changes), lambda: weights.items(), "words", None)


def test_a_run_a_checkpoint_and_an_export_of_it_give_the_same_weights(two_ranks: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(two_ranks, tmp_path / "export", to="safetensors"))
    checkpoint = find_checkpoint(two_ranks)
    expected = dict(checkpoint_weights(checkpoint))
    for source in (two_ranks, checkpoint.folder, tmp_path / "export"):
        found = open_initial_weights(source, checkpoint.config.model)
        assert found.config == checkpoint.config.model
        assert found.words_sha256 is not None
        assert found.words_sha256 == open_initial_weights(two_ranks, checkpoint.config.model).words_sha256
        torch.testing.assert_close(dict(found.weights()), expected, atol=0, rtol=0)
        assert checkpoint.config.data.text_tokenizer is not None
        check_initial_weights(found, checkpoint.config.model, checkpoint.config.data.text_tokenizer)
    assert weights_file(two_ranks) == weights_file(checkpoint.folder) == checkpoint.folder / MANIFEST_NAME
    assert weights_file(tmp_path / "export") == tmp_path / "export" / WEIGHTS_NAME


def test_what_holds_no_weights_is_refused_with_what_to_give(tmp_path: Path) -> None:
    taken = "give a run, a checkpoint folder, .*best, .* --to safetensors wrote, or a file of Microsoft's"
    with pytest.raises(ValueError, match=rf"initial_weights .*nothing does not exist; {taken}"):
        open_initial_weights(tmp_path / "nothing", CONFIG)
    with pytest.raises(ValueError, match=rf"initial_weights {tmp_path} is a folder without weights; {taken}"):
        open_initial_weights(tmp_path, CONFIG)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"initial_weights: run .* has no complete checkpoint yet"):
        open_initial_weights(tmp_path / "run", CONFIG)
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has no beit3.text_embed.weight: it is not a BEiT-3 checkpoint"):
        open_initial_weights(tmp_path / "other.pth", CONFIG)
    (tmp_path / WEIGHTS_NAME).touch()
    with pytest.raises(ValueError, match=r"model.safetensors is one file of an export; give its folder, "):
        open_initial_weights(tmp_path / WEIGHTS_NAME, CONFIG)


TASKS = {
    "pretraining": None,
    "retrieval": DualHeads(),
    "vqa": VqaHead(5),
    "nlvr2": Nlvr2Head(),
    "caption": CaptionHead(),
    "classify": ClassHead(7),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_file_of_microsofts_gives_the_weights_that_it_was_written_from(task: str, tmp_path: Path) -> None:
    config = replace(CONFIG, attention="decoupled", num_vl_layers=0)
    network = build_network(config, TASKS[task])
    init_weights(network, config, 0)
    path, words = tmp_path / "beit3.pth", tmp_path / "beit3.spm"
    save_beit3(network.state_dict().items(), config, "fusion", path, heads=TASKS[task])
    words.write_bytes(b"words")
    found = open_initial_weights(path, config)
    assert found.config == config and found.folder == path == weights_file(path)
    check_initial_weights(found, config, words)
    torch.testing.assert_close(dict(found.weights()), dict(network.state_dict()), atol=0, rtol=0)
    with pytest.raises(ValueError, match="model.attention is decoupled there, shared here"):
        check_initial_weights(found, CONFIG, words)
    words_of_others = tmp_path / "others.spm"
    words_of_others.write_bytes(b"other words")
    with pytest.raises(ValueError, match=r"its words are those of .*beit3.spm, not of .*others.spm"):
        check_initial_weights(found, config, words_of_others)
    check_initial_weights(found, config, None)


def test_a_task_takes_the_encoder_of_any_source_and_names_the_parts_that_start_anew() -> None:
    config = replace(CONFIG, image_size=48)
    for source, heads, missing in (
        (tiny_model(), Nlvr2Head(), {"head"}),
        (tiny_model(), CaptionHead(), set()),
        (tiny_dual_encoder(), VqaHead(5), {"pooler", "head"}),
        (build_network(CONFIG, VqaHead(5)), VqaHead(5), set()),
        (build_network(CONFIG, VqaHead(5)), ClassHead(5), {"fc_norm", "head"}),
        (build_network(CONFIG, ClassHead(5)), CaptionHead(), {"encoder", "mlm_head"}),
    ):
        network = build_network(config, heads)
        init_weights(network, config, 1)
        found = load_initial_weights(given(source), network, may_lack=(*HEADS, FINAL_NORM))
        assert {name.split(".")[0] for name in found} == missing
        assert all("norm" in name for name in found if name.startswith("encoder."))
        own, there = network.state_dict(), source.state_dict()
        for name, tensor in own.items():
            if name not in found and "vision_embed.pos_embed" not in name:
                assert torch.equal(tensor, there[name]), name


@pytest.mark.parametrize("heads", [VqaHead(5), ClassHead(5)])
def test_rows_of_other_labels_are_left_out(heads: TaskHead, tmp_path: Path) -> None:
    source, network = tiny_task_network(heads, seed=1), tiny_task_network(heads, seed=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    missing = load_initial_weights(given(source), network, HEADS, left_out=LABEL_ROWS)
    rows = "head.3" if isinstance(heads, VqaHead) else "head"
    assert missing == [f"{rows}.weight", f"{rows}.bias"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, (before if name in missing else source.state_dict())[name]), name


def test_the_labels_of_weights_are_those_of_the_list_beside_them(tmp_path: Path) -> None:
    folder, file = (replace(given(tiny_model()), folder=place) for place in (tmp_path, tmp_path / "beit3_fusion.pth"))
    assert labels_there(folder, "vqa") is None
    (tmp_path / "answer2label.txt").write_text(answer_lines(["yes", "no"]))
    file.folder.touch()
    assert labels_there(folder, "vqa") == labels_there(file, "vqa") == ["yes", "no"]
    assert labels_there(folder, "label") is labels_there(folder, "nlvr2") is None


def test_a_dual_encoder_takes_the_encoder_of_pretraining_and_keeps_its_own_heads() -> None:
    source, model = tiny_model(seed=1), tiny_dual_encoder(seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    missing = load_initial_weights(given(source), model, may_lack=HEADS)
    assert missing == ["vision_head.weight", "language_head.weight", "logit_scale"]
    there = source.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in missing else there[name]), name


def test_an_earlier_dual_encoder_is_taken_whole_but_for_the_scale_of_another_loss() -> None:
    source = tiny_dual_encoder(seed=1)
    model = tiny_dual_encoder(seed=2)
    assert load_initial_weights(given(source), model, HEADS) == []
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
    sigmoid = DualEncoder(CONFIG, DualHeads(logit_bias=True))
    init_weights(sigmoid, CONFIG, 0)
    assert load_initial_weights(given(source), sigmoid, HEADS) == ["logit_scale", "logit_bias"]
    assert torch.equal(sigmoid.vision_head.weight, source.vision_head.weight) and sigmoid.logit_scale.item() > 2.3
    masked = tiny_dual_encoder(DualHeads(masked_data=True))
    assert load_initial_weights(given(tiny_model(seed=1)), masked, HEADS)[0] == "vision_head.weight"
    assert torch.equal(masked.mlm_head.weight, tiny_model(seed=1).mlm_head.weight)


def test_pretraining_needs_its_own_heads_and_any_run_needs_all_of_the_encoder() -> None:
    model = tiny_model(seed=2)
    with pytest.raises(ValueError, match=r"there lack mim_head.weight, .*; give weights of masked data modeling"):
        load_initial_weights(given(tiny_dual_encoder()), model)
    source = tiny_dual_encoder(DualHeads(masked_data=True), seed=1)
    assert load_initial_weights(given(source), model) == []
    assert torch.equal(model.mim_head.bias, source.mim_head.bias)
    shorter = MaskedDataModel(replace(CONFIG, depth=2, num_vl_layers=0))
    with pytest.raises(ValueError, match=r"lack encoder\.blocks\.2\."):
        load_initial_weights(given(shorter), tiny_dual_encoder(), HEADS)
    with pytest.raises(ValueError, match=r"have encoder\.blocks\.2\..*, which the network does not have"):
        load_initial_weights(given(tiny_model()), shorter)
    with pytest.raises(ValueError, match=r"\(50, 32\) for encoder.text_embed.word_embed.weight, expected \(60, 32\)"):
        load_initial_weights(given(tiny_model()), MaskedDataModel(replace(CONFIG, vocab_size=60)))


def test_image_positions_are_interpolated_to_the_size_of_the_run() -> None:
    source, larger = tiny_model(), DualEncoder(replace(CONFIG, image_size=48))
    load_initial_weights(given(source), larger, HEADS)
    positions, own = (each.encoder.vision_embed.pos_embed.detach() for each in (source, larger))
    assert torch.equal(own[:3], positions[:3]) and len(own) == 3 + 36
    torch.testing.assert_close(own[3:].mean(0), positions[3:].mean(0), atol=0.05, rtol=0)


def test_a_head_for_another_list_of_answers_is_new_and_named() -> None:
    source, network = tiny_task_network(VqaHead(7), seed=1), tiny_task_network(VqaHead(9), seed=2)
    before = network.state_dict()["head.3.weight"].clone()
    assert load_initial_weights(given(source), network, HEADS) == ["head.3.weight", "head.3.bias"]
    after = network.state_dict()
    assert torch.equal(after["head.3.weight"], before)
    assert torch.equal(after["head.0.weight"], source.state_dict()["head.0.weight"])
    with pytest.raises(ValueError, match=r"there lack encoder.norm.*; give weights of masked data modeling"):
        load_initial_weights(given(source), tiny_dual_encoder(), HEADS)  # contrastive training needs the final norm


def test_positions_are_interpolated_up_to_768_px_as_microsofts_code_does() -> None:
    source, large = tiny_model(), build_network(replace(CONFIG, image_size=768), VqaHead(7))
    load_initial_weights(given(source), large, HEADS)
    own, found = (each.encoder.vision_embed.pos_embed.detach() for each in (source, large))
    patches = own[3:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)  # load_model_and_may_interpolate of unilm/beit3 utils.py
    patches = torch.nn.functional.interpolate(patches, size=(96, 96), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, torch.cat([own[:3], patches.permute(0, 2, 3, 1).flatten(0, 2)]))


def test_all_differences_are_listed(tmp_path: Path) -> None:
    save_network(tiny_model().state_dict(), CONFIG, tmp_path)
    found, words = open_initial_weights(tmp_path, CONFIG), tmp_path / "words.spm"
    words.touch()
    check_initial_weights(found, replace(CONFIG, drop_path_rate=0.3, image_size=64), words, free={"image_size"})
    with pytest.raises(ValueError, match="do not fit: model.depth is 3 there, 4 here; model.image_size is 32 there"):
        check_initial_weights(found, replace(CONFIG, depth=4, image_size=64), words)
    other = replace(found, words_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"its words are those of .*, not of .*words.spm"):
        check_initial_weights(other, CONFIG, words)
