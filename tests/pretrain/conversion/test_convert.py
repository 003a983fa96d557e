"""The report on converted weights: source, loaders, unused rows. CPU, seconds."""

from pathlib import Path
from typing import Any

import pytest

from model.config import MultiwayConfig
from pretrain.conversion.beit3_target import Beit3Target
from pretrain.conversion.convert import Converted, report
from pretrain.conversion.model_card import make_card
from pretrain.formats.vocabulary import Vocabulary
from tests.support.sources import source_of


def reported(config: MultiwayConfig, role: Any, num_ids: int = 8002) -> str:
    """Return the report on a network of any size, without its weights."""
    path = Path("/dev/null")  # any file with a size
    vocabulary = Vocabulary(Path("words.spm"), "0" * 64, num_ids)
    source = source_of(config, origin="step 5 in runs/a/checkpoints/step_00000005", vocabulary=vocabulary)
    card = make_card(Beit3Target(role), source, 1e-6)
    return report(Converted(path, 1e-6, source, card))


def test_the_report_names_the_step_and_the_command_that_loads_the_file() -> None:
    said = reported(MultiwayConfig(vocab_size=8002), "fusion")
    assert "from step 5 in runs/a/checkpoints/step_00000005, largest difference 1.0e-06" in said
    assert "torchscale loads it" in said
    assert "run_beit3_finetuning.py --task imagenet --model beit3_base_patch16_224" in said
    assert "--vocab_size 8002 --sentencepiece_model" in said and "wrong for" not in said and "note:" not in said
    laptop = reported(MultiwayConfig(dim=192, depth=4, num_heads=6, ffn_dim=576), "fusion")
    assert "Microsoft's finetuning code cannot load it: not base or large, but dim 192" in laptop
    assert "run_beit3_finetuning.py" not in laptop


@pytest.mark.parametrize(
    ("role", "wrong", "other"),
    [
        ("fusion", "imagenet, flickr30k, coco_retrieval", "dual"),
        ("dual", "vqav2, nlvr2, coco_captioning, nocaps", "fusion"),
    ],
)
def test_the_report_names_the_tasks_that_a_role_is_wrong_for(role: str, wrong: str, other: str) -> None:
    said = reported(MultiwayConfig(num_vl_layers=3), role)
    inputs = "images alone and texts alone" if role == "fusion" else "image-text pairs"
    assert f"wrong for {inputs} ({wrong}): for those, --role {other}" in said
    task = "vqav2 --model beit3_base_patch16_384" if role == "fusion" else "imagenet --model beit3_base_patch16_224"
    assert f"--task {task}" in said


def test_the_report_counts_rows_of_words_that_are_never_used() -> None:
    said = reported(MultiwayConfig(attention="decoupled"), "dual")
    assert "56008, 31% of all parameters, are never used; --trim-vocab leaves them out" in said
    assert "--trim-vocab" not in reported(MultiwayConfig(), "dual", num_ids=64002)
