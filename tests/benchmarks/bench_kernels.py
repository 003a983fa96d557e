"""The operations of model/kernels compared with eager torch, torch.compile and, if installed, NVIDIA apex.

    python -m tests.benchmarks.bench_kernels [--quick] [--append]

Without a GPU: bytes moved and saved by eager and compiled torch, counted per element of the widest activation, and
the minimum that must move; microseconds per image of masks on the CPU, compared with BEiT's published algorithm.
With a GPU: milliseconds, the minimum's share of the copy bandwidth, peak memory, and the masks.
"""

import argparse
import importlib.util
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch

from model.kernels.backend import choose_backend
from model.kernels.nvidia_apex import apex_linear
from model.layout import TWO_EXPERTS
from tests.benchmarks.bytes_moved import compiled_bytes, eager_bytes, saved_bytes
from tests.benchmarks.kernel_operations import NAMES, Operation, Size, head, operations, sizes
from tests.benchmarks.published_masks import mask_rows
from tests.benchmarks.results import append_results

SAMPLES_COUNTED, SAMPLES_TIMED = 1, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--append", action="store_true", help="append to RESULTS.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="dynamo_pgo")
    figures = mask_rows(args.quick)
    num_sizes = 1 if args.quick else 2
    if torch.cuda.is_available():
        bandwidth = copy_bandwidth()
        figures["copy_gb_per_second"] = bandwidth / 1e9
        for size in sizes(SAMPLES_TIMED)[:num_sizes]:
            figures |= timed(size, bandwidth)
            figures |= matrix_products(size)
    else:
        for size in sizes(SAMPLES_COUNTED)[:num_sizes]:
            figures |= counted(size, args.quick)
    print(f"\n{'figure':<44}{'value':>12}")
    for name, value in figures.items():
        print(f"{name:<44}{value:>12.4g}")
    if args.append:
        append_results("bench_kernels", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def counted(size: Size, is_quick: bool) -> dict[str, float]:
    """Return bytes, in multiples of the elements of an operation's widest matrix."""
    figures: dict[str, float] = {}
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
            figures[f"{size.name}_{operation.name}_{who}_forward_bytes"] = forward / operation.unit
            figures[f"{size.name}_{operation.name}_{who}_backward_bytes"] = backward / operation.unit
        if operation.name == "ffn":
            kept = saved_bytes(torch.compile(operation.plain), operation.inputs) / operation.unit
            figures[f"{size.name}_ffn_compile_kept_bytes"] = kept
            # residual stream, pre-activation and four floats per row: see tests/model/kernels/test_expert_ffn.py
            num_rows = size.layout().num_rows
            ours = (2 * num_rows * (size.dim + size.ffn_dim) + 16 * num_rows) / operation.unit
            figures[f"{size.name}_ffn_kept_bytes"] = ours
            figures[f"{size.name}_ffn_kept_vs_compile"] = ours / kept
    return figures


def timed(size: Size, bandwidth: float) -> dict[str, float]:
    """Return milliseconds, ways taking turns by operation; share_of_copy: the minimum bytes at the copy bandwidth."""
    device = torch.device("cuda")
    figures: dict[str, float] = {}
    for operation in [*operations(size, device), head(size, device)]:
        name = f"{size.name}_{operation.name}"
        ways: dict[str, Callable[..., Any]] = {
            "eager": operation.plain,
            "compile": torch.compile(operation.plain),
            "ours": operation.backend("triton"),
        }
        if operation.name == "norm" and _has_apex():
            ways["apex"] = operation.backend("apex")
        if operation.liger is not None and importlib.util.find_spec("liger_kernel") is not None:
            ways["liger"] = operation.liger
        milliseconds = {who: _forward_backward_ms(way, operation) for who, way in ways.items()}
        for who, (forward, backward) in milliseconds.items():
            figures[f"{name}_{who}_forward_ms"], figures[f"{name}_{who}_backward_ms"] = forward, backward
            figures[f"{name}_{who}_peak_mb"] = _peak_megabytes(ways[who], operation)
        for who in ways.keys() - {"ours"}:
            figures[f"{name}_speed_vs_{who}"] = sum(milliseconds[who]) / sum(milliseconds["ours"])
        if operation.fewest_bytes is not None:
            for part, fewest, took in zip(
                ("forward", "backward"), operation.fewest_bytes, milliseconds["ours"], strict=True
            ):
                figures[f"{name}_{part}_share_of_copy"] = fewest / bandwidth / (took * 1e-3)
    return figures


def matrix_products(size: Size) -> dict[str, float]:
    """Time the experts' first product: one cuBLAS call per expert, torch._grouped_mm, cuBLASLt's GELU epilogue."""
    layout, dtype = size.layout(), torch.bfloat16
    x = torch.randn(layout.num_rows, size.dim, device="cuda", dtype=dtype)
    weights = torch.randn(2, size.ffn_dim, size.dim, device="cuda", dtype=dtype).mul_(0.05)
    bias = torch.randn(size.ffn_dim, device="cuda", dtype=dtype)
    parts = layout.rows(TWO_EXPERTS).slices()
    ends = torch.tensor([part.stop for part in parts], device="cuda", dtype=torch.int32)
    out = torch.empty(layout.num_rows, size.ffn_dim, device="cuda", dtype=dtype)

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
    return {f"{size.name}_fc1_{name}_ms": _milliseconds(call) for name, call in calls.items()}


def copy_bandwidth() -> float:
    """Return the bytes per second that a copy within the GPU reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (_milliseconds(lambda: target.copy_(source)) * 1e-3)


def _has_apex() -> bool:
    try:
        choose_backend("apex", torch.device("cuda"))
    except ValueError:
        return False
    return True


def _forward_backward_ms(way: Callable[..., Any], operation: Operation) -> tuple[float, float]:
    outputs = way(*operation.inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    grads = [torch.ones_like(output) for output in outputs]
    forward = _milliseconds(lambda: way(*operation.inputs))
    backward = _milliseconds(lambda: torch.autograd.grad(outputs, operation.inputs, grads, retain_graph=True))
    return forward, backward


def _milliseconds(call: Callable[[], Any]) -> float:
    """Return the median time; the GPU's L2 cache is emptied before each call."""
    flush = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    times = []
    for turn in range(25):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # launches queue up, so host time is not measured
        start.record()
        call()
        end.record()
        end.synchronize()
        if turn >= 5:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def _peak_megabytes(way: Callable[..., Any], operation: Operation) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = way(*operation.inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    torch.autograd.grad(outputs, operation.inputs, [torch.ones_like(output) for output in outputs])
    return (torch.cuda.max_memory_allocated() - before) / 1e6


if __name__ == "__main__":
    main()
