"""Every file of ds_configs: merged, explained, with the same losses, and runs resume under another one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pretrain.engine.engine import merged_deepspeed_config
from pretrain.engine.memory_config import read_memory_config
from pretrain.recipes import RECIPES
from pretrain.run.run_log import read_log
from pretrain.survival.stop import EXIT_STOPPED_BY_FILE
from tests.support.engine_ranks import NUM_STEPS, Case
from tests.support.launch import ROOT, run_ranks
from tests.support.tiny_run import TinyData

FOLDER = ROOT / "ds_configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def zero_of(name: str) -> dict[str, Any]:
    """Return zero_optimization of a file, with nodes of two ranks."""
    zero: dict[str, Any] = read_memory_config(FOLDER / f"{name}.json")["zero_optimization"]
    return {**zero, "zero_hpz_partition_size": 2} if "zero_hpz_partition_size" in zero else zero


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_fits_every_recipe(name: str) -> None:
    small = {"demo", "laptop", "laptop_multilingual"}  # their batches are too small for eight ranks
    for recipe in set(RECIPES) - small:
        merged = merged_deepspeed_config(RECIPES[recipe](), read_memory_config(FOLDER / f"{name}.json"), world_size=8)
        assert merged["zero_optimization"]["stage"] in (1, 2, 3)


def test_the_readme_has_a_row_for_each_with_its_numbers() -> None:
    readme = (FOLDER / "README.md").read_text()
    rows = [line.split("|")[1].strip(" `") for line in readme.splitlines() if line.startswith("| `zero")]
    assert sorted(rows) == [f"{name}.json" for name in NAMES]
    for setting, value in read_memory_config(FOLDER / "zero3.json")["zero_optimization"].items():
        if isinstance(value, int) and not isinstance(value, bool) and setting != "stage":
            assert f"| `{setting}` | {value:,} |" in readme


@pytest.mark.slow
def test_all_give_the_losses_of_plain_zero3(tmp_path: Path) -> None:
    cases = {name: Case(zero_of(name), [[4, 4, 4]]) for name in NAMES}
    (tmp_path / "cases.json").write_text(json.dumps({name: asdict(case) for name, case in cases.items()}))
    ended = run_ranks(4, "tests.support.engine_ranks", [tmp_path / "cases.json", tmp_path / "results.json"])
    assert ended.exit_codes == [0] * 4, ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    expected = results["zero3_cpu"]["losses"]
    assert len(expected) == NUM_STEPS and expected[0] != expected[-1]
    for name in NAMES:
        assert results[name]["losses"] == pytest.approx(expected, rel=1e-6), name


def test_nodes_that_do_not_divide_the_ranks_are_refused(tmp_path: Path) -> None:
    memory_config = read_memory_config(FOLDER / "zero3_hpz.json")
    with pytest.raises(ValueError, match="zero_hpz_partition_size 8, which must divide the number of ranks, 2"):
        merged_deepspeed_config(RECIPES["demo"](), memory_config, world_size=2)


@pytest.mark.parametrize(
    ("offload", "sentence"),
    [({"device": "nvme"}, "device nvme; set it to cpu or none"), ({"device": "cpu", "ratio": 0.5}, "its state is not")],
)
def test_offloaded_state_that_checkpoints_lack_is_refused(offload: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        merged_deepspeed_config(RECIPES["demo"](), {"zero_optimization": {"stage": 3, "offload_optimizer": offload}}, 2)


class OneStepAtATime:
    """A run that is stopped after every step and resumed with the command of a user."""

    def __init__(self, data: TinyData, folder: Path):
        self.data, self.folder, self.run_dir = data, folder, folder / "run"

    def step(self, zero: dict[str, Any], num_ranks: int, is_last: bool = False) -> None:
        self.run_dir.mkdir(exist_ok=True)
        if not is_last:
            (self.run_dir / "stop").touch()
        path = self.folder / "ds.json"
        path.write_text(json.dumps({"zero_optimization": zero}))
        arguments = ["demo", *self.data.overrides(self.run_dir), "--deepspeed-config", path]
        ended = run_ranks(num_ranks, "pretrain.train", arguments)
        assert ended.exit_codes == [0 if is_last else EXIT_STOPPED_BY_FILE] * num_ranks, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3_hpz", "zero3_offload"])
def test_stopped_and_resumed_equals_undisturbed_to_the_bit(name: str, tiny_data: TinyData, tmp_path: Path) -> None:
    logs = []
    for folder, num_stops in (("undisturbed", 0), ("stopped", 2)):
        (tmp_path / folder).mkdir()
        run = OneStepAtATime(tiny_data, tmp_path / folder)
        for _ in range(num_stops):
            run.step(zero_of(name), 4)
        run.step(zero_of(name), 4, is_last=True)
        logs.append([(record["losses"], record["grad_norm"]) for record in read_log(run.run_dir)])
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_run_resumes_under_every_other_configuration(tiny_data: TinyData, two_ranks: Path, tmp_path: Path) -> None:
    run = OneStepAtATime(tiny_data, tmp_path)
    starts = [
        ("zero3_hpz", 4),
        ("zero3_offload", 2),
        ("zero1", 2),
        ("zero3_hpz", 2),
        ("zero2", 4),
        ("zero3_offload", 1),
    ]
    for name, num_ranks in starts:
        run.step(zero_of(name), num_ranks)
    run.step(zero_of("zero3"), 2, is_last=True)
    found, expected = read_log(run.run_dir), read_log(two_ranks)
    assert [record["step"] for record in found] == [record["step"] for record in expected]
    for here, there in zip(found, expected, strict=True):
        assert here["losses"] == pytest.approx(there["losses"], abs=1e-4)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-4)
