"""The list of checks. No time at all."""

from dataclasses import replace
from pathlib import Path

from pretrain.diagnosis import checks
from pretrain.diagnosis.demands import Demands
from pretrain.diagnosis.options import DoctorOptions
from pretrain.recipes import RECIPES


def test_a_recipe_adds_the_checks_of_its_data_and_disk() -> None:
    laptop, options = RECIPES["laptop"](), DoctorOptions()
    without = {one.subject for one in checks.machine_checks(None, Demands(), options)}
    with_recipe = {one.subject for one in checks.machine_checks(laptop, Demands(), options)}
    assert with_recipe - without == {"disk space", "shard cache", "shard read speed", "recipe's data"}
    added = len(checks.software_checks("laptop", laptop, options)) - len(checks.software_checks("", None, options))
    assert added == 1


def test_every_kernel_is_tried() -> None:
    for groups in (checks.KERNELS_ON_CPU, checks.KERNELS_ON_GPU):
        assert sorted(name for group in groups for name in group) == ["apex", "compile", "reference", "triton"]


def test_a_deepspeed_config_that_cannot_be_used_is_a_finding(tmp_path: Path) -> None:
    config = replace(RECIPES["laptop"](), deepspeed_config=tmp_path / "zero9.json")
    (found,) = checks.demands_found("laptop", config, None)
    assert not isinstance(found, Demands) and found.level == "error" and "does not exist" in found.text
    demands, stated = checks.demands_found("laptop", RECIPES["laptop"](), 2)
    assert isinstance(demands, Demands) and demands.ranks == 2 and "laptop on 2 ranks" in stated.text  # type: ignore[union-attr]
