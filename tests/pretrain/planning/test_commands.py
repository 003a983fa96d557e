"""The commands of a plan are those of the documentation."""

import pytest

from pretrain.planning.commands import SLURM_MODULE, nodes, start_lines
from tests.support.launch import ROOT


@pytest.mark.parametrize(
    ("ranks", "expected"), [(1, (1, 1)), (8, (1, 8)), (6, (1, 6)), (12, (3, 4)), (64, (8, 8)), (9, (9, 1))]
)
def test_every_node_has_the_same_number_of_ranks(ranks: int, expected: tuple[int, int]) -> None:
    assert nodes(ranks) == expected


def test_a_run_on_several_nodes_is_submitted_and_one_on_a_machine_may_be_launched() -> None:
    lines = list(start_lines(["beit3_base", "--run-dir", "runs/a b"], 32, True))
    assert lines[0] == (
        "Slurm         sbatch --nodes 4 --gres gpu:8 --ntasks-per-node 8 slurm/pretrain.sbatch beit3_base "
        "--run-dir 'runs/a b'"
    )
    assert len(lines) == 2
    alone = list(start_lines(["laptop"], 2, False))
    assert alone[0].endswith("deepspeed --num_accelerators 2 --module pretrain.train laptop")
    assert alone[1].endswith("sbatch --nodes 1 --ntasks-per-node 2 slurm/pretrain.sbatch laptop")


def test_another_kind_of_run_is_submitted_with_its_module() -> None:
    lines = list(start_lines(["contrast_base"], 8, True, "pretrain.contrast"))
    assert lines[0].endswith("deepspeed --num_accelerators 8 --module pretrain.contrast contrast_base")
    submitted = "sbatch --nodes 1 --gres gpu:8 --ntasks-per-node 8 slurm/pretrain.sbatch contrast_base"
    assert lines[1] == f"Slurm         IMGLISH_MODULE=pretrain.contrast {submitted}"
    script = (ROOT / "slurm" / "pretrain.sbatch").read_text()
    assert f"${{IMGLISH_MODULE:-{SLURM_MODULE}}}" in script
