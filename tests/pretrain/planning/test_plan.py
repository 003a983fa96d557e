"""Plans: memory, traffic, and a remedy if nothing fits."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.options import PlanOptions
from pretrain.planning.plan import compared_ranks, default_ranks, machine_for, plan, speed_of
from pretrain.planning.step_times import AssumedMachine
from pretrain.recipes import RECIPES
from tests.support.launch import ROOT
from tests.support.memory_ranks import small_config

H100 = AssumedMachine(GPUS["h100"], Assumptions())
HEADINGS = [
    "Parameters, counted", "One sample, counted, without heads", "Memory of a GPU, counted",
    "Time of a step, predicted from assumptions", "Settings that fit: GB counted, times assumed",
    "Recommendation: GB counted, times assumed", "Whole run", "Storage", "Start",
]  # fmt: skip


def config_for(num_ranks: int) -> PretrainConfig:
    config = small_config(num_ranks, 1)
    return replace(
        config,
        model=replace(config.model, depth=1, num_vl_layers=1),
        deepspeed_config=ROOT / "ds_configs" / "zero3.json",
    )


def test_a_plan_has_a_row_per_stage_and_a_part_table_that_add_up() -> None:
    lines = plan(config_for(2), 2, H100).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("ZeRO stage"))
    for stage, line in enumerate(lines[start + 1 : start + 4], start=1):
        name, *figures, total, sent = map(float, line.split())
        assert name == stage and sum(figures) == pytest.approx(total, abs=0.04) and sent > 0
    start = next(number for number, line in enumerate(lines) if line.startswith("part "))
    end = next(number for number, line in enumerate(lines) if line.startswith("step "))
    parts = [float(line[34:44]) for line in lines[start + 1 : end]]
    assert len(parts) == 12 and sum(parts) == pytest.approx(float(lines[end][34:44]), abs=1)
    rows = [line.split() for line in lines if re.match(r" +2 +\d ", line)]
    assert [row[1] for row in rows] == ["1", "2", "3"]  # the fastest first; hpZ needs nodes of 8
    assert "ds_configs/zero1.json is predicted to be the fastest" in " ".join(lines)


def test_the_default_is_a_node_or_fewer_ranks_that_divide_the_batch() -> None:
    assert default_ranks(config_for(1), H100) == 2 and default_ranks(config_for(12), H100) == 8
    assert default_ranks(config_for(12), None) == 2  # without a GPU


def test_the_given_ranks_are_compared_with_those_that_divide_the_batch() -> None:
    assert compared_ranks(config_for(12), 2) == [2, 8]  # 24 samples of each kind
    assert compared_ranks(replace(config_for(12), gradient_accumulation_steps=2), 3) == [3]


def headings(text: str) -> list[str]:
    lines = text.splitlines()
    return [title for title, line in itertools.pairwise(lines) if line and set(line) == {"-"}]


def section_of(text: str, title: str) -> list[str]:
    """Return the lines under a heading."""
    return text.partition(f"{title}\n{'-' * len(title)}\n")[2].partition("\n\n")[0].splitlines()


def test_a_plan_has_its_sections_and_the_command_of_its_recommendation() -> None:
    config = config_for(2)
    text = plan(config, 2, H100, price=2.0, arguments=("laptop", "--num-steps", "3"))
    assert headings(text) == HEADINGS
    start = section_of(text, "Start")
    words = (
        "laptop --num-steps 3 --deepspeed-config ds_configs/zero1.json"  # the recipe has zero3.json, which is slower
    )
    assert start[0] == f"one machine   deepspeed --num_accelerators 2 --module pretrain.train {words}"
    assert start[1] == f"Slurm         sbatch --nodes 1 --gres gpu:2 --ntasks-per-node 2 slurm/pretrain.sbatch {words}"
    for line in [*section_of(text, "Whole run")[:-1], *section_of(text, "Storage")]:
        assert re.search("(measured|published|counted|assumed)", line), line


def test_nothing_is_started_that_does_not_fit() -> None:
    tiny = replace(H100, gpu=replace(H100.gpu, memory_gb=4.001))  # all but 1 MB are the reserve
    text = plan(config_for(2), 2, tiny)
    assert headings(text) == HEADINGS[:-1]
    assert "No stage fits 4.001 GB with 4 GB in reserve" in text and "which does not fit" in text


def test_the_reserve_decides_what_fits() -> None:
    config = config_for(2)
    need = float(section_of(plan(config, 2, H100), "Memory of a GPU, counted")[2].split()[-2])  # stage 1, GB
    for reserve, fits in ((0.1, True), (0.5, False)):
        machine = AssumedMachine(replace(H100.gpu, memory_gb=need + 0.3), Assumptions(reserve_gb=reserve))
        rows = section_of(plan(config, 2, machine), "Settings that fit: GB counted, times assumed")
        assert ("1" in [row.split()[1] for row in rows[1:] if row.split()[0] == "2"]) == fits


def test_a_recipe_for_a_cpu_is_not_planned_for_a_gpu_unless_one_is_named() -> None:
    demo = RECIPES["demo"]()
    assert machine_for(demo, PlanOptions()) is None
    text = plan(demo, 2, None, arguments=("demo",))
    assert headings(text) == [*HEADINGS[:2], "Memory of a rank, counted", "Whole run", "Storage", "Start"]
    assert "80 GB" not in text and "fits" not in text and "without a GPU" in text
    assert "sbatch --nodes 1 --ntasks-per-node 2 slurm/pretrain.sbatch demo" in text
    assert machine_for(demo, PlanOptions(gpu="a100")) == AssumedMachine(GPUS["a100"], Assumptions())
    with pytest.raises(ValueError, match="--price is about GPUs, and ds_configs/zero3_cpu.json is for a CPU"):
        machine_for(demo, PlanOptions(price=1.0))


def test_a_stated_and_a_measured_speed_replace_the_predicted_one() -> None:
    config = config_for(2)
    stated = speed_of(config, PlanOptions(mfu=0.5), H100, [])
    assert stated is not None and stated.flops == 0.5 * 67e12  # the recipe is in float32
    measured = speed_of(config, PlanOptions(run=Path("runs/x")), H100, [{"tflops_per_rank": 6.7}])
    assert measured is not None and measured.flops == pytest.approx(6.7e12)
    assert speed_of(config, PlanOptions(), H100, []) is None
    assert any(line.split()[:2] == ["MFU", "0.50"] for line in plan(config, 2, H100, stated).splitlines())
