"""Compile every kernel for GPUs that this machine lacks, with the installed Triton.

    python -m tests.ahead_of_time [80 90] [--sizes base large giant] [--json] [--ceilings]

Calls the public functions, forward and backward, in bfloat16, with a Triton driver that compiles and launches nothing.
Prints a row per kernel: registers of a thread, bytes of them that are spilled to memory, bytes of shared memory.
--ceilings: how fast the kernels of the experts' activation could be if only the issue of instructions limited them.
tests/triton_versions.py does this for several versions of Triton.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict

os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # unset, Triton 3.9 warns

import torch
import triton

from tests.support.compiled_kernels import CompiledKernel, CompilingDriver, access_widths, row_cycles, row_loop
from tests.support.kernel_calls import FAMILY, activation_calls, kernel_calls

ARCHITECTURES = (80, 90)
ALL_SIZES = "all"
"""The size of kernels whose code depends on no width of the network."""
H100_GHZ, H100_MULTIPROCESSORS = 1.755, 132
"""NVIDIA H100 SXM, boost clock."""
ROWS_MOVED = {"_expert_activation_forward": 2, "_expert_activation_backward": 3, "_expert_activation_backward (y)": 4}
"""Rows of F bfloat16 that the kernels of the experts' activation read and write per row."""


def compiled_kernels(arch: int, sizes: list[str], only_activation: bool) -> Iterator[tuple[str, CompiledKernel]]:
    """Yield the size of each kernel, and the kernel, once per code that Triton generates."""
    driver = CompilingDriver(arch)
    triton.runtime.driver.set_active(driver)
    for size in sizes:
        driver.compiled.clear()
        dim, ffn_dim = FAMILY[size]
        for call in activation_calls(ffn_dim) if only_activation else kernel_calls(dim, ffn_dim):
            call()
        for kernel in driver.compiled:
            yield size if kernel.depends_on_width else ALL_SIZES, kernel


def report_row(size: str, kernel: CompiledKernel) -> dict[str, object]:
    row = {name: value for name, value in asdict(kernel).items() if name not in ("binary", "depends_on_width")}
    return {"triton": triton.__version__, "size": size, **row}


def ceiling_row(size: str, kernel: CompiledKernel) -> dict[str, object]:
    """Return the instructions of a kernel's loop over rows, and the bytes per second that issuing them allows."""
    loop = row_loop(kernel.binary)
    moved = 2 * FAMILY[size][1] * ROWS_MOVED[kernel.kernel]
    seconds = row_cycles(loop, kernel.warps) / (H100_GHZ * 1e9)
    widths = access_widths(loop)
    return {
        **report_row(size, kernel),
        "access_bytes": {str(width): widths[width] for width in sorted(widths, reverse=True)},
        "instructions": len(loop),
        "h100_tb_per_second": round(moved / seconds * H100_MULTIPROCESSORS / 1e12, 2),
    }


def print_table(rows: list[dict[str, object]]) -> None:
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    lengths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(length) for cell, length in zip(line, lengths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", type=int, nargs="*", default=list(ARCHITECTURES), help="80: A100, 90: H100")
    parser.add_argument("--sizes", nargs="+", choices=list(FAMILY), default=list(FAMILY))
    parser.add_argument("--json", action="store_true", help="a line of JSON per kernel instead of a table")
    parser.add_argument("--ceilings", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for arch in args.architectures:
        for size, kernel in compiled_kernels(arch, args.sizes, args.ceilings):
            if args.ceilings and kernel.kernel not in ROWS_MOVED:  # sums of gradients
                continue
            rows.append(ceiling_row(size, kernel) if args.ceilings else report_row(size, kernel))
            if args.json:
                print(json.dumps(rows[-1]), flush=True)
    if not args.json:
        print_table(rows)


if __name__ == "__main__":
    main()
