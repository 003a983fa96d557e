"""Predicted times as text."""

from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.roofline import ASSUMED, COMMUNICATION, OPTIMIZER, WAITING, StepTime
from pretrain.planning.stages import Setting
from pretrain.planning.step_times import AssumedMachine, PredictedSetting
from pretrain.planning.time_tables import part_table, rank_row, rank_table

PARTS = dict.fromkeys(ASSUMED, 0.0) | {"products": 0.5, OPTIMIZER: 0.1, COMMUNICATION: 0.15, WAITING: 0.25}
TIME = StepTime(PARTS, host=0.75, communication=0.2, flops=4e11, peak_flops=1e12)
FOUND = PredictedSetting(Setting("3, hpZ", {}, 2, 34_560_000_000), TIME)


def test_a_part_has_its_share_and_its_assumptions() -> None:
    lines = part_table(TIME, "8 ranks", AssumedMachine(GPUS["h100"], Assumptions(product_share=0.7))).splitlines()
    assert lines[0].startswith("a step on 8 ranks, predicted for 1 TFLOP/s, 3.35 TB/s") and "not measured" in lines[0]
    assert "(published) and the longest" in lines[0]
    assert "products                               500.0   50.0%  assumed: product_share 0.7" in lines
    assert any(line.endswith("assumed: copy_share 0.9; counted: optimizer_bytes 70") for line in lines)
    assert "measured: operation_us 31" in " ".join(lines)
    assert any(line.split() == ["step", "1000.0", "100.0%", "MFU", "0.40"] for line in lines)
    assert lines[-1] == "the host works 750 ms of it (75%), the network 200 ms (20%)"


def test_a_row_has_a_figure_under_each_name() -> None:
    head, row = rank_table({16: [FOUND]}).splitlines()
    assert row == rank_row(16, FOUND) and len(row) == len(head)
    assert row.split() == ["16", "3,", "hpZ", "2", "34.6", "0.600", "0.200", "0.750", "1.000", "0.40", "25%"]
    assert rank_table({16: []}).splitlines()[1].split() == ["16", "none", "fits"]
