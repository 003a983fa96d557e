"""Settings of the networks: wrong ones are refused with a remedy, and reading them needs no torch. CPU, seconds."""

import subprocess
import sys

import pytest

from model.config import Checkpointing, MultiwayConfig, VisualTokenizerConfig
from tests.support.launch import ROOT


def test_wrong_sizes_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="num_heads 5 must divide dim 32; choose another num_heads"):
        MultiwayConfig(dim=32, num_heads=5)
    with pytest.raises(ValueError, match="patch_size 7 must divide image_size 32; choose another patch_size or"):
        MultiwayConfig(image_size=32, patch_size=7)
    with pytest.raises(ValueError, match="num_vl_layers 3 must not exceed depth 2; lower it"):
        MultiwayConfig(depth=2, num_vl_layers=3)
    with pytest.raises(ValueError, match="num_heads 5 must divide dim 32; choose another num_heads"):
        VisualTokenizerConfig(dim=32, num_heads=5)
    with pytest.raises(ValueError, match="patch_size 7 must divide image_size 32; choose another patch_size or"):
        VisualTokenizerConfig(image_size=32, patch_size=7)


def test_image_tokens_are_the_patches_and_the_class_token() -> None:
    config = MultiwayConfig(image_size=32, patch_size=8)
    assert (config.grid_size, config.num_patches, config.num_image_tokens) == (4, 16, 17)


def test_the_first_block_in_every_is_checkpointed() -> None:
    checkpointing = Checkpointing("full", every=3)
    assert [checkpointing.mode_of(block) for block in range(5)] == ["full", "none", "none", "full", "none"]


def test_every_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="every 0 must be an integer from 1 to"):
        Checkpointing("full", 0)


def test_settings_and_operations_are_read_without_torch() -> None:
    code = (
        "import sys, model.config, model.flops, model.objective\n"
        "print(sorted({'torch', 'numpy', 'triton', 'pydantic'} & set(sys.modules)))\n"
        "from model import load_pretrained\n"
        "print(load_pretrained.__module__)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.splitlines() == ["[]", "pretrain.inference.pretrained_model"], ended.stderr
