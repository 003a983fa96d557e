"""The moving average of the weights under every ZeRO stage, against one computed by hand. CPU; ranks take seconds."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.engine.weight_average import decay_of_update
from tests.support.launch import run_ranks
from tests.support.weight_average_ranks import CHECKS

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
NEVER_SMALL = {"stage3_param_persistence_threshold": 0}
FEW = {
    "stage 2": {"zero": {"stage": 2}},
    "stage 3 in bfloat16": {"zero": {"stage": 3, "sub_group_size": 5000}, "precision": "bfloat16"},
}
ALL: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"zero": {"stage": stage}} for stage in (1, 2, 3)},
    **{f"stage {stage} in bfloat16": {"zero": {"stage": stage}, "precision": "bfloat16"} for stage in (1, 2, 3)},
    **{f"stage {stage}, offload": {"zero": {"stage": stage, **OFFLOAD}, "precision": "bfloat16"} for stage in (2, 3)},
    "stage 3, nothing stays gathered": {"zero": {"stage": 3, **NEVER_SMALL}},
    "stage 3, weights offloaded": {
        "zero": {"stage": 3, **OFFLOAD, "offload_param": {"device": "cpu"}},
        "precision": "bfloat16",
    },
    "stage 1, gradients in float32": {
        "zero": {"stage": 1},
        "precision": "bfloat16",
        "others": {"data_types": {"grad_accum_dtype": "fp32"}},
    },
    "DeepSpeed's AdamW": {"zero": {"stage": 2, **OFFLOAD}, "implementation": "deepspeed"},
}


@pytest.mark.parametrize(
    ("num_ranks", "cases"),
    [
        pytest.param(2, FEW, id="2-few"),
        pytest.param(1, ALL, marks=pytest.mark.slow, id="1-all"),
        pytest.param(2, ALL, marks=pytest.mark.slow, id="2-all"),
    ],
)
def test_the_average_is_that_computed_by_hand_and_its_use_changes_nothing(
    num_ranks: int, cases: dict[str, Any], tmp_path: Path
) -> None:
    asked, out = tmp_path / "cases.json", tmp_path / "out.json"
    asked.write_text(json.dumps(cases))
    ended = run_ranks(num_ranks, "tests.support.weight_average_ranks", [asked, out], timeout_seconds=500)
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    found = json.loads(out.read_text())
    assert found.keys() == cases.keys()
    wrong = [
        (case, name, found[case][name]) for case in found for name in CHECKS if not CHECKS[name](found[case][name])
    ]
    assert wrong == []


def test_the_decay_grows_with_the_number_of_updates_up_to_the_one_that_is_set() -> None:
    assert [decay_of_update(0.9999, n) for n in (1, 2, 10, 90)] == pytest.approx([2 / 11, 3 / 12, 11 / 20, 0.91])
    assert decay_of_update(0.9999, 10**6) == 0.9999
    assert decay_of_update(0.1, 1) == 0.1
