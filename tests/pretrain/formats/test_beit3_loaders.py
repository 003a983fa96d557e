"""Microsoft's programs that load a file, and their command lines. CPU, seconds."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import MultiwayConfig
from pretrain.formats.beit3 import file_entries
from pretrain.formats.beit3_loaders import (
    TASKS,
    exact_tasks,
    finetuning_command,
    torchscale_arguments,
    why_not_finetuned,
)
from pretrain.formats.role import Role
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.tiny import CONFIG, tiny_model
from tests.support.torchscale_beit3 import load_strictly

BASE = MultiwayConfig()
LARGE = MultiwayConfig(dim=1024, depth=24, num_heads=16, ffn_dim=4096)
REGISTERED = {
    "beit3_base_patch16_224_imageclassification", "beit3_large_patch16_224_imageclassification",
    "beit3_base_patch16_224_nlvr2", "beit3_large_patch16_224_nlvr2", "beit3_base_patch16_384_vqav2",
    "beit3_base_patch16_480_vqav2", "beit3_large_patch16_384_vqav2", "beit3_large_patch16_480_vqav2",
    "beit3_large_patch16_768_vqav2", "beit3_base_patch16_224_captioning", "beit3_base_patch16_480_captioning",
    "beit3_large_patch16_480_captioning", "beit3_base_patch16_224_retrieval", "beit3_base_patch16_384_retrieval",
    "beit3_large_patch16_384_retrieval",
}  # fmt: skip
"""Models that unilm/beit3 modeling_finetune.py registers."""
SUFFIXES = {
    "imagenet": "imageclassification", "flickr30k": "retrieval", "coco_retrieval": "retrieval", "vqav2": "vqav2",
    "nlvr2": "nlvr2", "coco_captioning": "captioning", "nocaps": "captioning",
}  # fmt: skip
"""Suffix that run_beit3_finetuning.py appends to --model for each --task."""


def options_of(command: str) -> dict[str, str]:
    words = shlex.split(command)
    assert words[:2] == ["python", "run_beit3_finetuning.py"]
    return dict(zip((word.removeprefix("--") for word in words[2::2]), words[3::2], strict=True))


@pytest.mark.parametrize("image_size", [224, 384, 480, 768, 96])
@pytest.mark.parametrize("network", [BASE, LARGE], ids=["base", "large"])
def test_every_command_names_a_model_that_microsofts_code_registers(network: MultiwayConfig, image_size: int) -> None:
    config = replace(network, image_size=image_size)
    assert {task.name for task in TASKS} == set(SUFFIXES) and why_not_finetuned(config) is None
    for task in TASKS:
        options = options_of(finetuning_command(task, config, Path("out/beit3_dual.pth"), Path("out/words.spm")))
        assert f"{options['model']}_{SUFFIXES[task.name]}" in REGISTERED
        assert options["model"].split("_")[-1] == options["input_size"]
        exact = options["model"].replace(options["input_size"], str(image_size)) + f"_{SUFFIXES[task.name]}"
        assert options["input_size"] == str(image_size) or exact not in REGISTERED


def test_the_command_line_is_complete() -> None:
    nlvr2 = next(task for task in TASKS if task.name == "nlvr2")
    config = replace(BASE, vocab_size=8002)
    command = finetuning_command(nlvr2, config, Path("my out/beit3_fusion.pth"), Path("my out/text_tokenizer.spm"))
    assert command == (
        "python run_beit3_finetuning.py --task nlvr2 --model beit3_base_patch16_224 --input_size 224 --vocab_size 8002 "
        "--sentencepiece_model 'my out/text_tokenizer.spm' --finetune 'my out/beit3_fusion.pth' --data_path DATA "
        "--output_dir RESULTS"
    )
    short = replace(config, max_text_length=40)  # their default of 64 tokens would use padded rows
    assert options_of(finetuning_command(nlvr2, short, Path("a"), None))["num_max_bpe_tokens"] == "40"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"dim": 192, "depth": 4, "num_heads": 6},
            "not base or large, but dim 192, depth 4, 6 heads, ffn_dim 3072 .base: 768, 12, 12, 3072; large",
        ),
        ({"num_heads": 16}, "not base or large, but dim 768, depth 12, 16 heads, ffn_dim 3072"),
        ({"patch_size": 14}, "it builds patches of 16 px alone, these are of 14 px"),
        ({"max_text_length": 1023}, "it builds 1022 text positions, this network has 1023"),
    ],
    ids=str,
)
def test_the_reason_why_microsofts_code_cannot_load_it_is_reported(changes: dict[str, Any], reason: str) -> None:
    found = why_not_finetuned(replace(BASE, **changes))
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


@pytest.mark.parametrize("role", ["fusion", "dual", "vision", "text"])
def test_a_role_is_exact_for_the_tasks_whose_inputs_it_is_exact_for(role: Role) -> None:
    pairs = {"vqav2", "nlvr2", "coco_captioning", "nocaps"}
    names = {task.name for task in exact_tasks(replace(BASE, num_vl_layers=3), role)}
    assert names == (pairs if role == "fusion" else {"imagenet", "flickr30k", "coco_retrieval"})
    assert exact_tasks(BASE, role) == list(TASKS)  # without vision-language experts all files are the same


@pytest.mark.parametrize("max_text_length", [12, 1022, 1100])
def test_torchscale_builds_the_network_from_the_arguments_only(max_text_length: int) -> None:
    config = replace(CONFIG, max_text_length=max_text_length)
    model = tiny_model(max_text_length=max_text_length)
    arguments = torchscale_arguments(config)
    encoder_config = import_beside_cpu_torch("torchscale.architecture.config").EncoderConfig(**arguments)
    twin = import_beside_cpu_torch("torchscale.model.BEiT3").BEiT3(encoder_config)
    state = dict(file_entries(model.state_dict().items(), config, "fusion"))
    load_strictly(twin, state)
    positions = state["beit3.encoder.embed_positions.B.weight"]
    assert len(positions) == max(1024, max_text_length + 2)
    assert torch.equal(positions[: max_text_length + 2], model.get_parameter("encoder.text_embed.pos_embed"))
    assert not positions[max_text_length + 2 :].any()
