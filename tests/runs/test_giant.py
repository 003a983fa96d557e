"""The 1.9B model: stepped at full width and reduced depth, converted at full size. CPU, 20 GiB of memory and of disk,
minutes: run with make test-slow."""

import json
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from model.config import VisualTokenizerConfig
from model.masked_data_model import MaskedDataModel
from model.visual_tokenizer import VisualTokenizer
from pretrain.checkpoints.manifest import write_manifest
from pretrain.config.run_config import config_to_json
from pretrain.conversion.verify import TOLERANCE
from pretrain.formats.vqkd import save_vqkd
from pretrain.recipes import RECIPES
from pretrain.run.run_log import read_log
from pretrain.survival.step_guard import StepGuard
from tests.support.launch import ROOT, run_ranks
from tests.support.tiny_run import TinyData

pytestmark = pytest.mark.slow
CONVERT = "import resource; from pretrain.convert import main; main(); print(resource.getrusage(0).ru_maxrss * 1024)"


def convert_and_measure(source: Path, out: Path, *arguments: str) -> tuple[float, int]:
    """Convert in a new process; return the largest difference and the peak of its resident memory in bytes."""
    ended = subprocess.run(
        [sys.executable, "-c", CONVERT, source, out, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    print(ended.stdout)
    difference = re.search(r"largest difference (\S+)", ended.stdout)
    assert difference is not None
    return float(difference[1]), int(ended.stdout.splitlines()[-1])


def giant_visual_tokenizer(path: Path) -> None:
    """Write an untrained visual tokenizer that gives 16 x 16 codes."""
    config = VisualTokenizerConfig(
        image_size=128, patch_size=8, dim=32, num_heads=2, encoder_depth=1, decoder_depth=1, num_codes=256,
        code_dim=8, teacher_dim=192,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer = VisualTokenizer(config)
    features = tokenizer.features(torch.rand(2, 3, 128, 128)).detach().flatten(0, 1)
    tokenizer.codebook.start(features)
    save_vqkd(tokenizer, path)


def test_four_layers_of_the_giant_are_stepped_under_zero3_and_exported(tiny_data: TinyData, tmp_path: Path) -> None:
    giant_visual_tokenizer(tmp_path / "visual_tokenizer.pt")
    run_dir = tmp_path / "run"
    overrides = {
        "model.depth": 4,
        "activation-checkpointing.mode": "full",
        "model.num-visual-tokens": 256,
        "data.images": tiny_data.folder / "images",
        "data.pairs": tiny_data.folder / "pairs",
        "data.texts": tiny_data.folder / "texts",
        "data.text-tokenizer": tiny_data.folder / "text_tokenizer.spm",
        "data.text-length": 32,
        "data.num-lanes": 1,
        "data.num-workers": 0,
        "visual-tokenizer": tmp_path / "visual_tokenizer.pt",
        "run-dir": run_dir,
        "images-per-step": 1,
        "pairs-per-step": 1,
        "texts-per-step": 1,
        "num-steps": 2,
        "optimizer.warmup-steps": 1,
        "optimizer.peak-lr": 1e-5,  # a higher rate would fit the codes of the first step only
        "precision": "float32",
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
    }
    arguments = [word for name, value in overrides.items() for word in (f"--{name}", value)]
    ended = run_ranks(1, "pretrain.train", ["beit3_giant", *arguments], timeout_seconds=900)
    assert ended.exit_codes == [0], ended.stderr
    records = read_log(run_dir)
    assert len(records) == 2 and not any(record["skipped"] for record in records)
    assert records[1]["loss"] < records[0]["loss"]
    for role in ("fusion", "dual"):
        difference, _ = convert_and_measure(run_dir, tmp_path / "out", "--role", role)
        assert difference <= TOLERANCE


def write_giant_checkpoint(run_dir: Path, text_tokenizer: Path, num_ranks: int) -> int:
    """Write the whole giant in the files of ZeRO-3, without moments; return the bytes of its float32 weights."""
    config = RECIPES["beit3_giant"]()
    with torch.device("meta"):
        model = MaskedDataModel(config.model)
    shapes = OrderedDict((name, parameter.shape) for name, parameter in model.named_parameters())
    partial = run_dir / "checkpoints" / "step_00000001.partial"
    partial.mkdir(parents=True)
    model_states = {
        "buffer_names": [],
        "module": {},
        "param_shapes": [shapes],
        "shared_params": {},
        "ds_version": "0.19.8",
    }
    per_rank = sum(-(-shape.numel() // num_ranks) for shape in shapes.values())
    for rank in range(num_ranks):
        torch.save(model_states, partial / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        flat = torch.empty(per_rank).normal_(std=0.02, generator=torch.Generator().manual_seed(rank))
        states = {"zero_stage": 3, "partition_count": num_ranks, "fp32_flat_groups": [flat]}
        torch.save({"optimizer_state_dict": states}, partial / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (partial / "config.json").write_text(config_to_json(config))
    shutil.copyfile(text_tokenizer, partial / "beit3.spm")
    header = {"kind": "pretraining", "memory_config": {}, "step": 1, "world_size": num_ranks}
    header |= {"data_fingerprints": {}, "guard_state": StepGuard(0, 1).state()}
    write_manifest(partial, header, {})
    partial.rename(partial.with_suffix(""))
    return 4 * sum(shape.numel() for shape in shapes.values())


@pytest.mark.parametrize(("to", "num_ranks"), [("beit3", 4), ("safetensors", 1)])
def test_the_whole_giant_is_converted_within_one_and_a_half_times_its_size(
    to: str, num_ranks: int, tiny_data: TinyData, tmp_path: Path
) -> None:
    num_bytes = write_giant_checkpoint(tmp_path / "run", tiny_data.folder / "text_tokenizer.spm", num_ranks)
    difference, peak = convert_and_measure(tmp_path / "run", tmp_path / "out", "--to", to)
    print(json.dumps({"to": to, "num_ranks": num_ranks, "peak_gb": peak / 1e9, "ratio": peak / num_bytes}))
    assert difference <= TOLERANCE
    assert peak < 1.5 * num_bytes
