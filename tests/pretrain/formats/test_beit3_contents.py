"""Microsoft's files that were finetuned for a task, and files of other kinds. CPU, seconds."""

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.formats.beit3 import beit3_entries, decoupled_weights, file_entries
from pretrain.formats.beit3_contents import config_of, missing_parts, task_heads
from pretrain.formats.beit3_file import load_beit3, save_beit3
from tests.support.tiny import CONFIG, tiny_model

D = CONFIG.dim
DECOUPLED = replace(CONFIG, attention="decoupled", num_vl_layers=0)
HEADS: dict[str, dict[str, tuple[int, ...]]] = {
    "retrieval": {"vision_head.weight": (D, D), "language_head.weight": (D, D), "logit_scale": ()},
    "imagenet": {"fc_norm.weight": (D,), "fc_norm.bias": (D,), "head.weight": (9, D), "head.bias": (9,)},
    "vqav2": {"pooler.norm.weight": (D,), "pooler.dense.weight": (D, D), "head.0.weight": (2 * D, D)},
    "nlvr2": {"head.norm1.weight": (4 * D,), "head.dense1.weight": (2 * D, 4 * D)},
    "captioning": {},
}
"""Parameters that finetuning adds, by task; for some tasks only part of them."""
LACKING = {
    "retrieval": ["mim_head", "mlm_head"],
    "imagenet": ["mim_head", "mlm_head", "encoder.layer_norm"],
    "vqav2": ["mim_head", "mlm_head", "encoder.layer_norm"],
    "nlvr2": ["mim_head", "mlm_head"],
    "captioning": ["mim_head"],
}


def pretrained_state() -> dict[str, Tensor]:
    model = tiny_model(attention="decoupled", num_vl_layers=0)
    return dict(beit3_entries(model.state_dict().items(), DECOUPLED, "dual"))


def tuned_state(task: str) -> dict[str, Tensor]:
    """Return the state of a network that Microsoft's code finetuned for a task."""
    state = pretrained_state()
    lacking = tuple(f"beit3.{part}." if "." in part else f"{part}." for part in LACKING[task])
    kept = {name: value for name, value in state.items() if not name.startswith(lacking)}
    return kept | {name: torch.ones(shape) for name, shape in HEADS[task].items()}


@pytest.mark.parametrize("task", HEADS)
def test_a_tuned_file_becomes_a_network_whose_missing_parts_are_new(task: str) -> None:
    entries, pretrained = tuned_state(task), pretrained_state()
    assert list(missing_parts(entries)) == LACKING[task] and task_heads(entries) == sorted(HEADS[task])
    config = config_of(entries, CONFIG.num_heads, num_visual_tokens=7)
    assert config == replace(DECOUPLED, num_visual_tokens=7)
    first = dict(decoupled_weights(dict(entries), config, new_heads=True))
    again = dict(decoupled_weights(dict(entries), config, new_heads=True))
    assert all(torch.equal(first[name], again[name]) for name in first)
    back = dict(beit3_entries(first.items(), config, "dual"))
    lacking = tuple(name for name in pretrained if name not in entries)
    assert all(torch.equal(back[name], pretrained[name]) for name in pretrained if name not in lacking)
    assert back["mim_head.weight"].shape == (7, D) and not back["mim_head.bias"].any()
    assert 0 < back["mim_head.weight"].std() < 0.02 and back["mim_head.weight"].abs().max() <= 0.02
    if "encoder.layer_norm" in LACKING[task]:
        assert (back["beit3.encoder.layer_norm.A.weight"] == 1).all()


@pytest.mark.parametrize("task", HEADS)
def test_a_tuned_file_is_refused_without_new_heads(task: str) -> None:
    entries = tuned_state(task)
    config = config_of(entries, CONFIG.num_heads)
    lacking = " and no ".join(LACKING[task])
    kind = (
        f"it was tuned for a task and has {', '.join(sorted(HEADS[task]))}" if HEADS[task] else "it is not a pretrain"
    )
    with pytest.raises(ValueError, match=f"has no {lacking}: {kind}.*; pass --new-heads to start them anew"):
        dict(decoupled_weights(entries, config))


@pytest.mark.parametrize("new_heads", [False, True])
@pytest.mark.parametrize(
    "name", ["mlm_head.bias", "beit3.encoder.layer_norm.B.weight", "beit3.encoder.layers.1.ffn.B.fc1.bias"]
)
def test_an_incomplete_part_is_never_initialized(name: str, new_heads: bool) -> None:
    entries = pretrained_state()
    del entries[name]
    with pytest.raises(ValueError, match=f"has no {name}: it is not a whole BEiT-3"):
        dict(decoupled_weights(entries, DECOUPLED, new_heads))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beit3.text_embed.weight", torch.zeros(3)),
        ("beit3.text_embed.weight", torch.zeros(0, D)),
        ("beit3.vision_embed.proj.weight", torch.zeros(D, 3, 8)),
        ("beit3.encoder.embed_positions.A.weight", torch.zeros(())),
        ("mim_head.weight", torch.zeros(2, 2, 2)),
    ],
    ids=str,
)
def test_tensors_of_another_kind_are_refused_by_name(name: str, value: Tensor) -> None:
    with pytest.raises(ValueError, match=f"the file has .* for {name}, .*: it is not a BEiT-3 checkpoint"):
        config_of({**pretrained_state(), name: value}, CONFIG.num_heads)


def test_a_table_of_positions_that_is_not_square_is_refused() -> None:
    entries = {**pretrained_state(), "beit3.encoder.embed_positions.A.weight": torch.zeros(21, D)}
    with pytest.raises(ValueError, match="for beit3.encoder.embed_positions.A.weight, expected"):
        dict(decoupled_weights(entries, config_of(entries, CONFIG.num_heads)))


def test_text_positions_are_padded_for_their_code_and_cut_again() -> None:
    model = tiny_model()
    entries = dict(file_entries(model.state_dict().items(), CONFIG, "dual"))
    assert config_of(entries, CONFIG.num_heads).max_text_length == 1022
    config = config_of(entries, CONFIG.num_heads, CONFIG.max_text_length)
    name = "encoder.text_embed.pos_embed"
    assert torch.equal(dict(decoupled_weights(dict(entries), config))[name], model.get_parameter(name))
    entries["beit3.encoder.embed_positions.B.weight"][500] = 1.0  # trained: the card belongs to another file
    with pytest.raises(ValueError, match="has 1024 rows of positions, 14 by its card; remove the card"):
        dict(decoupled_weights(entries, config))


def test_a_checkpoint_of_their_save_model_is_refused_with_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = tuned_state("retrieval"), tmp_path / "checkpoint-9.pth"
    content: dict[str, Any] = {"model": state, "epoch": 9, "scaler": {}, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, path)
    assert set(load_beit3(path)) == set(state)  # options are plain data
    torch.save({**content, "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4)}]}}, path)
    with pytest.raises(ValueError, match="holds code .numpy.*If you trust it .Microsoft's save_model") as raised:
        load_beit3(path)
    command = re.search(r"python -c '(.*)' writes model.pth", str(raised.value))
    assert command is not None
    monkeypatch.chdir(tmp_path)
    exec(command[1])
    found = load_beit3(tmp_path / "model.pth")
    assert set(found) == set(state) and all(torch.equal(found[name], state[name]) for name in state)


def test_their_loader_finds_only_tensors_under_model(tmp_path: Path) -> None:
    save_beit3(tiny_model().state_dict().items(), CONFIG, "fusion", tmp_path / "beit3.pth", "0123")
    content = torch.load(tmp_path / "beit3.pth", weights_only=True)
    assert set(content) == {"model", "text_tokenizer_sha256"}
    assert not {"head.weight", "head.bias"} & set(content["model"])  # their loader compares these before it loads
    assert all(type(value) is Tensor for value in content["model"].values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
        (b"PK\x03\x04" + bytes(200), "is cut off or damaged"),
    ],
    ids=["empty", "lfs", "zip"],
)
def test_another_kind_of_file_is_refused_in_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.pth {message}"):
        load_beit3(tmp_path / "a.pth")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="/proc/self/mem cannot be read"):  # EIO, for root too
        load_beit3(Path("/proc/self/mem"))
    with pytest.raises(ValueError, match="is a folder; give a BEiT-3 checkpoint file, or leave out --from beit3"):
        load_beit3(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((D, D), torch.nan), "NaN or infinity"),
        (torch.full((D, D), torch.inf), "NaN or infinity"),
        (torch.zeros(D, D, dtype=torch.int64), "int64"),
        (torch.zeros(D, D, dtype=torch.float64), "float64"),
        (torch.zeros(1).expand(D, D), "one value many times"),
        (torch.zeros(D, D).to_sparse(), "sparse"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_that_are_not_sound_are_refused_by_name(value: Tensor, message: str) -> None:
    name = "beit3.encoder.layers.1.self_attn.k_proj.B.weight"
    with pytest.raises(ValueError, match=f"the.pth has .*{message}.* for {name}"):
        dict(decoupled_weights({**pretrained_state(), name: value}, DECOUPLED, owner="the.pth"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in pretrained_state().items()}
    found = dict(decoupled_weights(dict(state), DECOUPLED))
    assert {value.dtype for value in found.values()} == {torch.float32}
