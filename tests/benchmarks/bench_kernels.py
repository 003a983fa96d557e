"""The operations of model/kernels compared with eager torch, torch.compile and, if installed, NVIDIA apex.

    python -m tests.benchmarks.bench_kernels [--quick] [--append] [--dry]

Without a GPU: bytes moved and saved by eager and compiled torch, counted per element of the widest activation, and
the minimum that must move; microseconds per image of masks on the CPU, compared with BEiT's published algorithm.
With a GPU: milliseconds, the minimum's share of the copy bandwidth, peak memory, and the masks. Figures are printed as
they are measured; an operation that fails is left out. --dry: what a GPU would do, in tiny sizes on a CPU, to see
whether it runs.
"""

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from model.kernels.backend import choose_backend
from model.kernels.nvidia_apex import apex_linear
from model.layout import TWO_EXPERTS
from tests.benchmarks.bytes_moved import compiled_bytes, eager_bytes, saved_bytes
from tests.benchmarks.kernel_operations import NAMES, Operation, Size, head, operations, sizes
from tests.benchmarks.published_masks import mask_figures
from tests.benchmarks.results import append_results
from tests.benchmarks.timing import (
    Figure,
    attempt,
    copy_bandwidth,
    forward_backward_ms,
    milliseconds,
    show,
    tensors,
)

SAMPLES_COUNTED, SAMPLES_TIMED = 1, 32
DRY_SIZE = Size("dry", 32, 64, 5, 1, caption_tokens=3, text_tokens=9, vocab_size=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--append", action="store_true", help="append to RESULTS.md")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU: does everything run?")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="dynamo_pgo")
    figures = show(measured(args.quick, args.dry))
    if args.append:
        append_results("bench_kernels", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))
    sys.exit(not figures)  # every measurement has failed


def measured(is_quick: bool, is_dry: bool) -> Iterator[Figure]:
    num_sizes = 1 if is_quick else 2
    if is_dry:
        device = torch.device("cpu")
        yield from timed(DRY_SIZE, copy_bandwidth(device, 2**16), device)
        yield from matrix_products(DRY_SIZE, device)
        return
    if torch.cuda.is_available():
        device = torch.device("cuda")
        bandwidth = copy_bandwidth(device)
        yield "copy_gb_per_second", bandwidth / 1e9
        for size in sizes(SAMPLES_TIMED)[:num_sizes]:
            yield from timed(size, bandwidth, device)
            yield from attempt(f"{size.name}_fc1", partial(matrix_products, size, device))
    else:
        for size in sizes(SAMPLES_COUNTED)[:num_sizes]:
            yield from counted(size, is_quick)
    yield from attempt("masks", partial(mask_figures, is_quick))


def counted(size: Size, is_quick: bool) -> Iterator[Figure]:
    """Yield bytes, in multiples of the elements of an operation's widest matrix."""
    names = ("norm", "activation") if is_quick else NAMES
    for operation in operations(size, torch.device("cpu")):
        if operation.name not in names:
            continue
        moved = {
            "eager": eager_bytes(operation.plain, operation.inputs),
            "compile": compiled_bytes(operation.plain, operation.inputs),
        }
        if operation.fewest_bytes is not None:
            moved = {"fewest": operation.fewest_bytes} | moved
        for who, (forward, backward) in moved.items():
            yield f"{size.name}_{operation.name}_{who}_forward_bytes", forward / operation.unit
            yield f"{size.name}_{operation.name}_{who}_backward_bytes", backward / operation.unit
        if operation.name == "ffn":
            kept = saved_bytes(torch.compile(operation.plain), operation.inputs) / operation.unit
            yield f"{size.name}_ffn_compile_kept_bytes", kept
            # residual stream, pre-activation and four floats per row: see tests/model/kernels/test_expert_ffn.py
            num_rows = size.layout().num_rows
            ours = (2 * num_rows * (size.dim + size.ffn_dim) + 16 * num_rows) / operation.unit
            yield f"{size.name}_ffn_kept_bytes", ours
            yield f"{size.name}_ffn_kept_vs_compile", ours / kept


def timed(size: Size, bandwidth: float, device: torch.device) -> Iterator[Figure]:
    """Yield milliseconds of every operation, each of the ways in turn, and what follows from them."""
    for operation in [*operations(size, device), head(size, device)]:
        yield from attempt(
            f"{size.name}_{operation.name}", partial(times_of, f"{size.name}_{operation.name}", operation, bandwidth)
        )


def times_of(name: str, operation: Operation, bandwidth: float) -> Iterator[Figure]:
    """Yield milliseconds and peak memory of each way to compute an operation, ratios of speeds, and share_of_copy: the
    fewest bytes at the copy bandwidth, divided by our time."""
    found: dict[str, tuple[float, float]] = {}
    for who, way in ways_of(operation).items():

        def of_one(who: str = who, way: Callable[..., Any] = way) -> Iterator[Figure]:
            forward, backward = forward_backward_ms(way, operation.inputs)
            yield f"{name}_{who}_forward_ms", forward
            yield f"{name}_{who}_backward_ms", backward
            if operation.inputs[0].is_cuda:
                yield f"{name}_{who}_peak_mb", _peak_megabytes(way, operation)
            found[who] = forward, backward

        yield from attempt(f"{name}_{who}", of_one)
    if "ours" not in found:
        return
    for who in found.keys() - {"ours"}:
        yield f"{name}_speed_vs_{who}", sum(found[who]) / sum(found["ours"])
    if operation.fewest_bytes is not None:
        for part, fewest, took in zip(("forward", "backward"), operation.fewest_bytes, found["ours"], strict=True):
            yield f"{name}_{part}_share_of_copy", fewest / bandwidth / (took * 1e-3)


def ways_of(operation: Operation) -> dict[str, Callable[..., Any]]:
    """Return the functions that compute an operation, ours first; on a CPU only those that need no compiler."""
    on_gpu = operation.inputs[0].is_cuda
    ways: dict[str, Callable[..., Any]] = {
        "ours": operation.backend("triton" if on_gpu else "reference"),
        "eager": operation.plain,
    }
    if on_gpu:
        ways["compile"] = torch.compile(operation.plain)
    if operation.name == "norm" and _has_apex():
        ways["apex"] = operation.backend("apex")
    if on_gpu and operation.liger is not None and importlib.util.find_spec("liger_kernel") is not None:
        ways["liger"] = operation.liger
    return ways


def matrix_products(size: Size, device: torch.device) -> Iterator[Figure]:
    """Yield milliseconds of the experts' first product: one cuBLAS call per expert, torch._grouped_mm, cuBLASLt's GELU
    epilogue."""
    layout, dtype = size.layout(), torch.bfloat16
    x = torch.randn(layout.num_rows, size.dim, device=device, dtype=dtype)
    weights = torch.randn(2, size.ffn_dim, size.dim, device=device, dtype=dtype).mul_(0.05)
    bias = torch.randn(size.ffn_dim, device=device, dtype=dtype)
    parts = layout.rows(TWO_EXPERTS).slices()
    ends = torch.tensor([part.stop for part in parts], device=device, dtype=torch.int32)
    out = torch.empty(layout.num_rows, size.ffn_dim, device=device, dtype=dtype)

    def separate() -> None:
        for weight, part in zip(weights, parts, strict=True):
            torch.mm(x[part], weight.t(), out=out[part])

    calls: dict[str, Callable[[], Any]] = {
        "separate": separate,
        "grouped": lambda: torch._grouped_mm(x, weights.transpose(1, 2), offs=ends),
        "gelu_tanh_epilogue": lambda: [
            torch._addmm_activation(bias, x[part], weight.t(), use_gelu=True)
            for weight, part in zip(weights, parts, strict=True)
        ],
    }
    if _has_apex():
        calls["apex_fused_dense"] = lambda: [
            apex_linear(x[part], weight, bias) for weight, part in zip(weights, parts, strict=True)
        ]
    for name, call in calls.items():

        def of_one(name: str = name, call: Callable[[], Any] = call) -> Iterator[Figure]:
            yield f"{size.name}_fc1_{name}_ms", milliseconds(lambda _: call(), device)

        yield from attempt(f"{size.name}_fc1_{name}", of_one)


def _has_apex() -> bool:
    try:
        choose_backend("apex", torch.device("cuda"))
    except ValueError:
        return False
    return True


def _peak_megabytes(way: Callable[..., Any], operation: Operation) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = tensors(way(*operation.inputs))
    torch.autograd.grad(outputs, operation.inputs, [torch.ones_like(output) for output in outputs])
    return (torch.cuda.max_memory_allocated() - before) / 1e6


if __name__ == "__main__":
    main()
