"""Launch arithmetic of the kernels over packed rows: each program owns consecutive rows of one group.

A group is all of one kind (see model/layout.py), so a program meets one expert of every set of parameters and loads its
parameters once. It sums their gradients over its rows in registers; an expert's programs follow one another, and their
partial sums are added in a fixed order. Atomics would be shorter, and give other bits in every run.
"""

import torch
from torch import Tensor

from model.expert_rows import MAX_GROUPS, ExpertRows
from model.kernels.language import jit, tl

FORWARD_ROWS = 4
"""Number of rows per program in forward: a program loads weight and bias once for all of them."""
BACKWARD_PROGRAMS = 512
"""Number of programs in backward. Each writes a row of partial sums: 512 fill a GPU, and more would add traffic."""
UNSPECIALIZED = ["end0", "end1", "end2", "num_rows", "rows_per_program", "experts", "bias_experts"]
"""Arguments that change with the batch. Triton would otherwise compile variants for 1 and for multiples of 16."""


def num_programs(rows: ExpertRows, rows_per_program: int) -> list[int]:
    """Return the number of programs that each expert's rows take."""
    counts = [0] * rows.num_experts
    for first, end, expert in zip((0, *rows.ends), rows.ends, rows.experts, strict=False):
        counts[expert] += -(-(end - first) // rows_per_program)
    return counts


def row_arguments(rows: ExpertRows, rows_per_program: int) -> tuple[int, int, int, int, int]:
    """Return the arguments of `program_rows`."""
    end0, end1, end2 = (*rows.ends, *[rows.num_rows] * MAX_GROUPS)[:3]
    return end0, end1, end2, rows.num_rows, rows_per_program


def expert_code(rows: ExpertRows) -> int:
    """Return the argument of `expert_of`: two bits per group."""
    return sum(expert << (2 * group) for group, expert in enumerate(rows.experts))


def backward_rows(rows: ExpertRows) -> int:
    """Return the number of rows per program in backward, where every program writes its sums."""
    return max(1, -(-rows.num_rows // BACKWARD_PROGRAMS))


@jit
def program_rows(program, end0, end1, end2, num_rows, rows_per_program):
    """Return the group of a program, and the first and last + 1 of its rows, int64: see model/kernels/__init__.py."""
    # groups do not share programs, so each rounds up by itself; four groups need no loop, and Triton has no arrays
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
    """Return the expert of a group. A kernel cannot index a tuple by a runtime value, so it is two bits of an
    integer."""
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
    # every run adds the same numbers in the same order: PROGRAMS running sums, then their sum
    total = tl.zeros([PROGRAMS, COLUMNS], tl.float32)
    for start in range(0, count, PROGRAMS):
        rows = start + tl.arange(0, PROGRAMS)
        mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
        offsets = (first + rows).to(tl.int64)[:, None] * stride + columns[None, :]
        total += tl.load(partial_ptr + offsets, mask=mask, other=0.0)
    tl.store(out_ptr + expert * WIDTH + columns, tl.sum(total, 0), mask=columns < WIDTH)


def sum_by_expert(partial: Tensor, programs: list[int]) -> Tensor:
    """Return the sums of each expert, (E, K, W) float32, of partial sums (programs, K, W); programs: `num_programs`.

    A strided second dimension is allowed, so that a part of the K sums can be summed by other experts.
    """
    assert partial.stride()[1:] == (partial.shape[2], 1)
    out = torch.empty(len(programs), *partial.shape[1:], dtype=torch.float32, device=partial.device)
    width, columns = out[0].numel(), 64
    padded = [*programs, 0, 0][:3]
    _sum_by_expert[(len(programs), -(-width // columns))](
        partial, out, *padded, partial.stride(0), WIDTH=width, PROGRAMS=32, COLUMNS=columns, num_warps=4
    )
    return out


def num_warps(width: int) -> int:
    """Return the number of warps of a program that holds one row at a time: 8 elements per thread, at most 16 warps."""
    return max(1, min(16, (1 << (width - 1).bit_length()) // 256))
