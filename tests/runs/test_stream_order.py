"""Every access to memory on a GPU's streams is ordered, found by vector clocks on two CPU ranks that run whole steps of
pretraining: new, resumed, and resumed under another layout. Seconds; every shipped configuration is in test-slow."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pretrain.engine.memory_config import read_memory_config
from tests.runs.test_ds_configs import FOLDER, NAMES, zero_of
from tests.support.launch import run_ranks
from tests.support.stream_order_ranks import Part
from tests.support.tiny_run import TinyData

BUCKET_SIZE = 13_000
"""Holds the largest parameter, as the shipped sizes do, and an eighth of the network: a step fills several buckets."""
UPDATE, GATHER = "(_reassign_or_swap_out_partitioned_parameters)", "(_all_gather_dtype)"


def memory_config(folder: Path, name: str) -> str:
    """Write a shipped configuration with buckets and nodes for a tiny run; return its path."""
    zero = {key: BUCKET_SIZE if key.endswith("bucket_size") else value for key, value in zero_of(name).items()}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"zero_optimization": zero}))
    return str(path)


def watched_parts(
    plan: list[Part],
    data: TinyData,
    folder: Path,
    precision: str = "bfloat16",
    depth: int = 1,
    num_ranks: int = 2,
    num_steps: int | None = None,
) -> list[list[dict[str, Any]]]:
    """Run the parts of a plan one after the other; return the result of each on every rank."""
    (folder / "plan.json").write_text(json.dumps([asdict(part) for part in plan]))
    num_steps = num_steps or sum(part.num_steps for part in plan)
    arguments = ["demo", *data.overrides(folder / "run"), "--num-steps", num_steps, "--optimizer.warmup-steps", 1]
    arguments += ["--model.depth", depth, "--precision", precision]
    module = "tests.support.stream_order_ranks"
    ended = run_ranks(num_ranks, module, [folder / "plan.json", folder / "out", *arguments], timeout_seconds=1200)
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    per_rank = [json.loads((folder / f"out.{rank}").read_text()) for rank in range(num_ranks)]
    return [list(part) for part in zip(*per_rank, strict=True)]


def test_gathers_wait_for_the_optimizer_and_would_not_without_this_project(tiny_data: TinyData, tmp_path: Path) -> None:
    zero3 = memory_config(tmp_path, "zero3")
    plan = [Part(zero3, 3, 2), Part(zero3, 3, 2, left_out="gathers")]
    ordered, unordered = watched_parts(plan, tiny_data, tmp_path)
    for rank in range(2):
        assert ordered[rank]["races"] == []
        # a gather and a reduction of several buckets in each of six micro-steps, seen on streams of their own
        assert ordered[rank]["seen"]["all_gather_into_tensor"] > 12 < ordered[rank]["seen"]["reduce_scatter_tensor"]
        assert sum(name.startswith("side stream") for name in ordered[rank]["seen"]) == 2
        assert unordered[rank]["races"]
        for first, second, count in unordered[rank]["races"]:
            print(f"rank {rank}, without the wait, {count} times: {first}; not ordered: {second}")  # pytest -s
            assert first.startswith("computing stream writes: ") and UPDATE in first
            assert second.startswith("side stream ") and " reads: " in second and GATHER in second


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_no_shipped_configuration_has_a_race(name: str, precision: str, tiny_data: TinyData, tmp_path: Path) -> None:
    own = memory_config(tmp_path, name)
    stage = read_memory_config(FOLDER / f"{name}.json")["zero_optimization"]["stage"]
    other = memory_config(tmp_path, "zero2" if stage == 3 else "zero3")
    plan = [
        Part(own, 3),
        Part(own, 3, gradient_accumulation_steps=2),  # resumed
        Part(other, 1),  # resumed under another layout
        Part(own, 3, gradient_accumulation_steps=2),
    ]
    results = watched_parts(plan, tiny_data, tmp_path, precision, depth=3)
    for part, ranks in zip(plan, results, strict=True):
        for result in ranks:
            assert result["races"] == [], part
            assert result["seen"]["all_gather_into_tensor" if "zero3" in part.deepspeed_config else "all_reduce"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "zero3_hpz"])  # which divides two ranks into nodes
def test_a_run_that_goes_on_with_more_ranks_has_no_race(name: str, tiny_data: TinyData, tmp_path: Path) -> None:
    own = memory_config(tmp_path, name)
    watched_parts([Part(own, 2)], tiny_data, tmp_path, num_ranks=1, num_steps=5)
    (ranks,) = watched_parts([Part(own, 3)], tiny_data, tmp_path, num_steps=5)
    for result in ranks:
        assert result["races"] == []
        assert result["seen"]["all_gather_into_tensor" if "zero3" in name else "all_reduce"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_hpz", "zero3_offload"])
def test_races_are_found_if_streams_wait_for_nothing(name: str, tiny_data: TinyData, tmp_path: Path) -> None:
    plan = [Part(memory_config(tmp_path, name), 3, left_out="waits")]
    (ranks,) = watched_parts(plan, tiny_data, tmp_path)
    for result in ranks:
        assert any(second.startswith("side stream") for _, second, _ in result["races"])
        assert any(first.startswith("side stream") for first, _, _ in result["races"])
