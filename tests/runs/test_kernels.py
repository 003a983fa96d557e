"""Runs with the kernels: the same losses as without, under ZeRO-3."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.run.run_log import read_log
from tests.support.launch import ROOT, run_ranks
from tests.support.tiny_run import TinyData

FEW = {"images_per_step": 2, "pairs_per_step": 2, "texts_per_step": 2, "data__num_lanes": 2, "model__num_vl_layers": 1}


def losses(data: TinyData, run_dir: Path, num_ranks: int, *, on_gpu: bool, **changes: Any) -> list[float]:
    words = [word for name, value in changes.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    words = [word.replace("_", "-") for word in words]
    arguments = ["demo", *data.overrides(run_dir), *words]
    ended = run_ranks(num_ranks, "pretrain.train", arguments, on_gpu=on_gpu, timeout_seconds=480)
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    assert f"kernels: {changes['kernels']}" in ended.stdout[0]
    return [record["loss"] for record in read_log(run_dir)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_kernels_train_like_their_references(mode: str, tiny_data: TinyData, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    reference, triton = (
        losses(
            tiny_data,
            tmp_path / kernels,
            2,
            on_gpu=False,
            kernels=kernels,
            num_steps=2,
            model__depth=1,
            activation_checkpointing__mode=mode,
            **FEW,
        )
        for kernels in ("reference", "triton")
    )
    assert triton == pytest.approx(reference, rel=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_hundred_steps_with_kernels_differ_less_than_seeds(tiny_data: TinyData, tmp_path: Path) -> None:
    def ending(kernels: str, seed: int) -> float:
        curve = losses(
            tiny_data, tmp_path / f"{kernels}{seed}", 1, on_gpu=True, kernels=kernels, seed=seed, num_steps=200,
            precision="bfloat16", deepspeed_config=ROOT / "ds_configs" / "zero3.json",
        )  # fmt: skip
        return sum(curve[-50:]) / 50

    seeds = [ending("reference", seed) for seed in range(3)]
    assert abs(ending("triton", 0) - seeds[0]) <= max(seeds) - min(seeds)
