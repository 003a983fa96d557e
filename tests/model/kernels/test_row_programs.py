"""Programs share the packed rows: each row has one program, which knows its expert. CPU, seconds."""

import pytest
import torch

from model.expert_rows import ExpertRows
from model.kernels.language import jit, tl
from model.kernels.row_programs import (
    BACKWARD_PROGRAMS,
    backward_rows,
    expert_code,
    expert_of,
    num_programs,
    num_warps,
    program_rows,
    row_arguments,
    sum_by_expert,
)
from tests.support.kernels import DEVICE, ROWS

pytest.importorskip("triton")


@jit
def _owners_kernel(owner_ptr, expert_ptr, end0, end1, end2, num_rows, rows_per_program, experts):  # type: ignore[no-untyped-def]
    group, first, last = program_rows(tl.program_id(0), end0, end1, end2, num_rows, rows_per_program)
    for row in range(first, last):
        tl.store(owner_ptr + row, tl.load(owner_ptr + row) + 1 + tl.program_id(0))
        tl.store(expert_ptr + row, expert_of(group, experts))


@pytest.mark.parametrize("rows_per_program", [1, 2, 4, 100])
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_every_row_has_one_program_and_its_own_expert(rows: ExpertRows, rows_per_program: int) -> None:
    owners = torch.zeros(max(1, rows.num_rows), dtype=torch.int32, device=DEVICE)
    experts = torch.full_like(owners, -1)
    programs = num_programs(rows, rows_per_program)
    if sum(programs):
        _owners_kernel[(sum(programs),)](owners, experts, *row_arguments(rows, rows_per_program), expert_code(rows))
    owners, experts = owners[: rows.num_rows], experts[: rows.num_rows]
    # a row of two programs would have the sum of both numbers
    assert owners.unique_consecutive().tolist() == list(range(1, sum(programs) + 1))
    for expert, part in enumerate(rows.slices()):
        assert (experts[part] == expert).all()
        assert len(owners[part].unique()) == programs[expert]


def test_backward_takes_no_more_programs_than_fill_a_gpu() -> None:
    rows = ExpertRows((1000, 1_000_000), (0, 1))
    assert sum(num_programs(rows, backward_rows(rows))) <= BACKWARD_PROGRAMS + 1
    assert backward_rows(ExpertRows((0,), (0,))) == 1


@pytest.mark.parametrize("programs", [[5], [0, 40], [3, 33, 1]], ids=str)
def test_partial_sums_are_added_by_expert(programs: list[int]) -> None:
    partial = torch.randn(sum(programs), 3, 70, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for part in (partial, partial[:, :2], partial[:, 2:]):
        expected = torch.stack([rows.sum(0) for rows in part.split(programs)])
        torch.testing.assert_close(sum_by_expert(part, programs), expected)


def test_a_thread_has_eight_elements_of_a_row() -> None:
    assert [num_warps(width) for width in (31, 256, 768, 1408, 6144)] == [1, 1, 4, 8, 16]
