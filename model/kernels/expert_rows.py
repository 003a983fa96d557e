"""How the programs of a kernel share the packed rows: each owns a run of consecutive rows of one group.

A group is all of one kind (see model/layout.py), so a program meets one expert of every set of parameters. It sums the
gradients of the expert's affine parameters over its rows without atomics; the sums of an expert's
programs, which follow one another, are then added in a fixed order: the same bits in every run.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.language import jit, tl

MAX_GROUPS = 4
FORWARD_ROWS = 4
BACKWARD_PROGRAMS = 512
"""Enough to fill a GPU, few enough that their partial sums are a small part of the traffic."""
UNSPECIALIZED = ["end0", "end1", "end2", "num_rows", "rows_per_program", "experts", "bias_experts"]
"""Arguments that change with the batch: one compiled kernel serves them all."""


@dataclass(frozen=True)
class ExpertRows:
    """Where each group of rows ends, and the expert that each belongs to, in increasing order."""

    ends: tuple[int, ...]
    experts: tuple[int, ...]

    def __post_init__(self) -> None:
        assert 1 <= len(self.ends) == len(self.experts) <= MAX_GROUPS
        assert list(self.ends) == sorted(self.ends) and sorted({0, *self.experts}) == list(range(self.num_experts))

    @property
    def num_rows(self) -> int:
        return self.ends[-1]

    @property
    def num_experts(self) -> int:
        return self.experts[-1] + 1

    def slices(self) -> list[slice]:
        """The rows of each expert."""
        ends = [max(end for end, e in zip(self.ends, self.experts, strict=True) if e == expert)
                for expert in range(self.num_experts)]  # fmt: skip
        return [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (N, ...) as the rows of each expert. Backward is one concatenation; that of slices would be padded sums."""
        return x.split([rows.stop - rows.start for rows in self.slices()])

    def programs(self, rows_per_program: int) -> list[int]:
        """How many programs each expert's rows take."""
        counts = [0] * self.num_experts
        for first, end, expert in zip((0, *self.ends), self.ends, self.experts, strict=False):
            counts[expert] += -(-(end - first) // rows_per_program)
        return counts

    def arguments(self, rows_per_program: int) -> tuple[int, int, int, int, int]:
        """What `program_rows` takes."""
        end0, end1, end2 = (*self.ends, *[self.num_rows] * MAX_GROUPS)[:3]
        return end0, end1, end2, self.num_rows, rows_per_program

    def expert_code(self) -> int:
        """What `expert_of` takes: two bits a group."""
        return sum(expert << (2 * group) for group, expert in enumerate(self.experts))

    def backward_rows(self) -> int:
        """Rows a program where its sums are kept."""
        return max(1, -(-self.num_rows // BACKWARD_PROGRAMS))


@jit
def program_rows(program, end0, end1, end2, num_rows, rows_per_program):
    """The group of a program, and the first and the last + 1 of its rows."""
    programs0 = tl.cdiv(end0, rows_per_program)
    programs1 = programs0 + tl.cdiv(end1 - end0, rows_per_program)
    programs2 = programs1 + tl.cdiv(end2 - end1, rows_per_program)
    is_past0, is_past1, is_past2 = program >= programs0, program >= programs1, program >= programs2
    group = is_past0.to(tl.int32) + is_past1.to(tl.int32) + is_past2.to(tl.int32)
    before = tl.where(is_past2, programs2, tl.where(is_past1, programs1, tl.where(is_past0, programs0, 0)))
    start = tl.where(is_past2, end2, tl.where(is_past1, end1, tl.where(is_past0, end0, 0)))
    end = tl.where(is_past2, num_rows, tl.where(is_past1, end2, tl.where(is_past0, end1, end0)))
    first = start + (program - before) * rows_per_program
    return group, first.to(tl.int64), tl.minimum(first + rows_per_program, end).to(tl.int64)


@jit
def expert_of(group, experts):
    return (experts >> (2 * group)) & 3


@jit(do_not_specialize=["programs0", "programs1", "programs2"])
def _sum_by_expert(
    partial_ptr, out_ptr, programs0, programs1, programs2, stride,
    WIDTH: tl.constexpr, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.where(expert == 0, 0, tl.where(expert == 1, programs0, programs0 + programs1))
    count = tl.where(expert == 0, programs0, tl.where(expert == 1, programs1, programs2))
    total = tl.zeros([PROGRAMS, COLUMNS], tl.float32)
    for start in range(0, count, PROGRAMS):
        rows = start + tl.arange(0, PROGRAMS)
        mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
        offsets = (first + rows).to(tl.int64)[:, None] * stride + columns[None, :]
        total += tl.load(partial_ptr + offsets, mask=mask, other=0.0)
    tl.store(out_ptr + expert * WIDTH + columns, tl.sum(total, 0), mask=columns < WIDTH)


def sum_by_expert(partial: Tensor, programs: list[int]) -> Tensor:
    """Partial sums (programs, K, W) of all programs -> (E, K, W) float32; programs: see `ExpertRows.programs`."""
    assert partial.stride()[1:] == (partial.shape[2], 1)
    out = torch.empty(len(programs), *partial.shape[1:], dtype=torch.float32, device=partial.device)
    width, columns = out[0].numel(), 64
    padded = [*programs, 0, 0][:3]
    _sum_by_expert[(len(programs), -(-width // columns))](
        partial, out, *padded, partial.stride(0), WIDTH=width, PROGRAMS=32, COLUMNS=columns, num_warps=4
    )
    return out


def num_warps(width: int) -> int:
    """For a program that holds one row at a time."""
    return max(1, min(16, (1 << (width - 1).bit_length()) // 256))
