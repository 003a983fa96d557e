"""How the programs of a kernel share the packed rows: each owns a run of consecutive rows of one expert.

So a program loads the expert's affine parameters once, and sums their gradients over its rows without atomics; the sums
of an expert's programs, which follow one another, are then added in a fixed order: the same bits in every run.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.language import jit, tl

FORWARD_ROWS = 4
BACKWARD_PROGRAMS = 512
"""Enough to fill a GPU, few enough that their partial sums are a small part of the traffic."""
UNSPECIALIZED = ["end0", "end1", "num_rows", "rows_per_program"]
"""Arguments of `program_rows` that change with the batch: one compiled kernel serves them all."""


@dataclass(frozen=True)
class ExpertRows:
    """Where the rows of up to three experts end: expert e has rows ends[e - 1] .. ends[e] - 1."""

    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        assert 1 <= len(self.ends) <= 3 and all(a <= b for a, b in zip((0, *self.ends), self.ends, strict=False))

    @property
    def num_rows(self) -> int:
        return self.ends[-1]

    def slices(self) -> list[slice]:
        return [slice(first, end) for first, end in zip((0, *self.ends), self.ends, strict=False)]

    def programs(self, rows_per_program: int) -> list[int]:
        """How many programs each expert's rows take."""
        return [-(-(rows.stop - rows.start) // rows_per_program) for rows in self.slices()]

    def arguments(self, rows_per_program: int) -> tuple[int, int, int, int]:
        """What `program_rows` takes."""
        end0, end1 = (*self.ends, self.num_rows, self.num_rows)[:2]
        return end0, end1, self.num_rows, rows_per_program

    def backward_rows(self) -> int:
        """Rows a program where its sums are kept."""
        return max(1, -(-self.num_rows // BACKWARD_PROGRAMS))


@jit
def program_rows(program, end0, end1, num_rows, rows_per_program):
    """The expert of a program, and the first and the last + 1 of its rows."""
    programs0 = tl.cdiv(end0, rows_per_program)
    programs1 = programs0 + tl.cdiv(end1 - end0, rows_per_program)
    expert = (program >= programs0).to(tl.int32) + (program >= programs1).to(tl.int32)
    before = tl.where(expert == 0, 0, tl.where(expert == 1, programs0, programs1))
    start = tl.where(expert == 0, 0, tl.where(expert == 1, end0, end1))
    end = tl.where(expert == 0, end0, tl.where(expert == 1, end1, num_rows))
    first = start + (program - before) * rows_per_program
    return expert, first.to(tl.int64), tl.minimum(first + rows_per_program, end).to(tl.int64)


@jit(do_not_specialize=["programs0", "programs1", "programs2"])
def _sum_kernel(
    partial_ptr,
    out_ptr,
    programs0,
    programs1,
    programs2,
    WIDTH: tl.constexpr,
    PROGRAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    expert = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.where(expert == 0, 0, tl.where(expert == 1, programs0, programs0 + programs1))
    count = tl.where(expert == 0, programs0, tl.where(expert == 1, programs1, programs2))
    total = tl.zeros([PROGRAMS, COLUMNS], tl.float32)
    for start in range(0, count, PROGRAMS):
        rows = start + tl.arange(0, PROGRAMS)
        mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
        offsets = (first + rows).to(tl.int64)[:, None] * WIDTH + columns[None, :]
        total += tl.load(partial_ptr + offsets, mask=mask, other=0.0)
    tl.store(out_ptr + expert * WIDTH + columns, tl.sum(total, 0), mask=columns < WIDTH)


def sum_by_expert(partial: Tensor, programs: list[int]) -> Tensor:
    """Partial sums (programs, K, D) of all programs -> (E, K, D) float32; programs: see `ExpertRows.programs`."""
    out = torch.empty(len(programs), *partial.shape[1:], dtype=torch.float32, device=partial.device)
    width = partial[0].numel() if len(partial) else out[0].numel()
    columns = 64
    padded = [*programs, 0, 0][:3]
    _sum_kernel[(len(programs), -(-width // columns))](
        partial, out, *padded, WIDTH=width, PROGRAMS=32, COLUMNS=columns, num_warps=4
    )
    return out
