"""Imglish's own format: anything but exactly a valid network is refused with the reason. CPU, seconds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import DualHeads, TaskHead
from model.dual_encoder import DualEncoder
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME, load_network, read_config, read_heads, save_network
from tests.support.tiny import CONFIG, TINY_HEADS, tiny_dual_encoder, tiny_model, tiny_task_network
from tests.support.unreadable import forbidden

NAME = "mim_head.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny network in Imglish's format."""
    save_network(dict(tiny_model().state_dict()), CONFIG, tmp_path)
    load_network(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (torch.full((20, 32), torch.nan), "NaN or infinity for mim_head.weight, in 640 of 640 elements"),
        (torch.zeros(20, 32).half(), "float16 for mim_head.weight, expected float32"),
        (torch.zeros(20, 32).double(), "float64 for mim_head.weight, expected float32"),
        (torch.zeros(20, 32).long(), "int64 for mim_head.weight, expected float32"),
        (torch.zeros(32, 20), r"\(32, 20\) for mim_head.weight, expected \(20, 32\)"),
        (None, r"nothing for mim_head.weight, expected \(20, 32\)"),
    ],
)
def test_weights_that_are_not_sound_are_refused(changed: torch.Tensor | None, message: str, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_NAME)
    del weights[NAME]
    if changed is not None:
        weights[NAME] = changed
    save_file(weights, folder / WEIGHTS_NAME)
    with pytest.raises(ValueError, match=f"{WEIGHTS_NAME} has {message}"):
        load_network(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 10**9}, "describes 1000000000 blocks|depth"),
        ({"dim": "wide"}, "dim Input should be a valid"),
        ({"num_heads": 0}, "config.json does not describe a valid network: "),
        ({"dim": 320}, r"model.safetensors has \(\d+"),
        ({"attention": "other"}, "attention Input should be 'shared' or 'decoupled'"),
    ],
    ids=lambda changes: "-".join(changes) if isinstance(changes, dict) else "",
)
def test_invalid_sizes_are_refused_in_one_sentence(changes: dict[str, Any], message: str, folder: Path) -> None:
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message) as error:
        load_network(folder)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("heads", [DualHeads(), DualHeads(logit_bias=True, masked_data=True)], ids=str)
def test_a_dual_encoder_is_loaded_as_one(heads: DualHeads, tmp_path: Path) -> None:
    network = tiny_dual_encoder(heads)
    save_network(dict(network.state_dict()), CONFIG, tmp_path, heads=heads)
    found = load_network(tmp_path)
    assert isinstance(found, DualEncoder) and found.heads == heads == read_heads(tmp_path)
    assert read_config(tmp_path) == CONFIG and not found.training
    expected = network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_the_network_of_a_task_is_loaded_as_one(heads: TaskHead, tmp_path: Path) -> None:
    network = tiny_task_network(heads)
    save_network(dict(network.state_dict()), CONFIG, tmp_path, heads=heads)
    entry = json.loads((tmp_path / CONFIG_NAME).read_text())["heads"]
    assert entry == {"task": heads.TASK, **vars(heads)}
    found, expected = load_network(tmp_path), network.state_dict()
    assert type(found) is type(network) and read_heads(tmp_path) == heads and read_config(tmp_path) == CONFIG
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (None, "model.safetensors has .* for (language_head|mim_head).*, expected"),
        ({"logit_bias": True, "masked_data": False}, r"has nothing for logit_bias, expected \(\)"),
        ({"logit_bias": 3, "masked_data": False}, "logit_bias Input should be a valid boolean"),
        ({"logit_bias": True}, "does not have the fields of DualHeads: masked_data"),
        (5, "does not have the fields of DualHeads: logit_bias, masked_data"),
        ({"task": "detect"}, "has heads of the task 'detect', not one of vqa, nlvr2, caption, classify"),
        ({"task": ["vqa"]}, r"has heads of the task \['vqa'\], not one of vqa"),
        ({"task": "vqa"}, "does not have the fields of VqaHead: num_answers"),
        ({"task": "vqa", "num_answers": 0}, "does not describe a valid network: num_answers Input should be greater"),
        ({"task": "nlvr2"}, "model.safetensors has .* for (head|language_head)"),
    ],
    ids=str,
)
def test_heads_that_the_weights_do_not_have_are_refused(heads: Any, message: str, tmp_path: Path) -> None:
    save_network(dict(tiny_dual_encoder().state_dict()), CONFIG, tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**config, "heads": heads}))
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path)


def test_a_folder_of_pretraining_names_no_heads(folder: Path) -> None:
    """Folders of earlier versions name none either, and stay readable."""
    assert "heads" not in json.loads((folder / CONFIG_NAME).read_text()) and read_heads(folder) is None


def test_a_pointer_a_bomb_and_an_unreadable_file_are_distinguished(folder: Path) -> None:
    with forbidden(folder / WEIGHTS_NAME), pytest.raises(PermissionError):
        load_network(folder)
    (folder / WEIGHTS_NAME).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"model.safetensors is a git-LFS pointer, .*; run git lfs pull"):
        load_network(folder)
    (folder / CONFIG_NAME).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        load_network(folder)
