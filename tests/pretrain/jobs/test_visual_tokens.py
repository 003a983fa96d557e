"""The visual tokenizer of a run: its precision. CPU, seconds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer, init_visual_tokenizer
from pretrain.jobs.visual_tokens import check_precision, tokenizer_dtype
from pretrain.recipes.beit3 import beit3_base


@pytest.mark.parametrize(
    ("device", "precision", "asked", "expected"),
    [
        ("cuda", "bfloat16", "float16", torch.float16),
        ("cuda", "bfloat16", "float32", torch.float32),
        ("cuda", "float32", "float16", torch.float32),
        ("cpu", "bfloat16", "float16", torch.float32),
    ],
)
def test_lower_precision_is_for_gpus_in_bfloat16(
    device: str, precision: str, asked: str, expected: torch.dtype
) -> None:
    changes: dict[str, Any] = {"precision": precision, "visual_tokenizer_precision": asked}
    config = replace(beit3_base(), **changes)
    assert tokenizer_dtype(config, torch.device(device)) == expected


def test_a_tokenizer_that_overflows_in_float16_is_refused_before_the_run() -> None:
    config = VisualTokenizerConfig(
        image_size=32, patch_size=8, dim=64, num_heads=2, encoder_depth=1, decoder_depth=1, num_codes=20, code_dim=8
    )
    tokenizer = VisualTokenizer(config)
    init_visual_tokenizer(tokenizer, 0.1, seed=0)
    tokenizer.codebook.start(tokenizer.features(torch.rand(4, 3, 32, 32)).detach().flatten(0, 1))
    check_precision(tokenizer, 32, torch.float16)
    with torch.no_grad():
        tokenizer.get_parameter("encoder.blocks.0.mlp.fc1.bias").fill_(60_000.0)
        tokenizer.get_parameter("encoder.blocks.0.mlp.fc2.weight").fill_(1.0)
    with pytest.raises(ValueError, match=r"in float16 as in float32 for only .*; set visual_tokenizer_precision"):
        check_precision(tokenizer, 32, torch.float16)
