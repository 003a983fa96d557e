"""The assumptions of the roofline, measured on this GPU: python -m tests.benchmarks.probe [PROBE ...] [--dry]

    copies      bandwidth of a copy, and its share that index_select, cat and stack at attention's sizes reach
    products    share of the peak that the matrix products of the giant and of base reach
    attention   share of the peak that attention reaches, counted without padding, by backend; which one torch chooses
    kernels     share of the copy bandwidth that our kernels reach at the giant's sizes
    order       whether a second stream sees an update that is still queued on the first, as ZeRO-3's gather might

Every figure is printed as it is measured; what fails is left out. The last lines are the values to compare with those
that `python -m pretrain.plan` assumes. --dry: tiny sizes on a CPU, to see whether everything runs.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from model.attention import find_varlen_attention
from model.kernels.backend import Backend
from pretrain.run.speed import peak_flops
from tests.benchmarks.kernel_operations import Size, operations, sizes
from tests.benchmarks.timing import (
    Figure,
    attempt,
    copy_bandwidth,
    forward_backward_ms,
    milliseconds,
    reason,
    show,
)

DTYPE = torch.bfloat16
SAMPLES = 32
"""Samples of each kind in a micro-step of the giant; base has four times as many."""
CAPTION_TOKENS = 20
HEADS = {"giant": (16, 88), "base": (12, 64), "dry": (2, 16)}
"""Number of heads and their dim, by size."""
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
"""Backends that are forced, by name; cuDNN's is left out on a CPU."""
DRY = [Size("dry", 32, 64, 5, 2, caption_tokens=3, text_tokens=9, vocab_size=50)]


class Probe:
    """Measurements on one device; each method yields the figures of one probe."""

    def __init__(self, device: torch.device, is_dry: bool):
        self.device, self.is_dry = device, is_dry
        self.sizes = DRY if is_dry else sizes(SAMPLES)[::-1]  # the giant first
        self.bandwidth = copy_bandwidth(device, 2**16 if is_dry else 2**30)
        self.peak = peak_flops(device) or 1e12
        if not is_dry and peak_flops(device) is None:
            print("the peak of this GPU is not known: shares of it are of 1 PFLOP/s", flush=True)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=DTYPE)

    def copies(self) -> Iterator[Figure]:
        yield "copy_tb_per_second", self.bandwidth / 1e12
        size = self.sizes[0]
        rows = size.num_samples * (size.image_tokens + CAPTION_TOKENS)
        x = self.random(rows, 3 * size.dim)
        order = torch.randperm(rows, device=self.device)
        ways: dict[str, Callable[[], Tensor]] = {
            "index_select": lambda: x.index_select(0, order),
            "stack": lambda: torch.stack(list(x.view(rows, 3, -1).unbind(1)), 1),
            "cat": lambda: torch.cat(list(x.chunk(3))),
        }
        for name, way in ways.items():
            took = milliseconds(partial(_ignoring, way), self.device)
            yield f"copies_{name}_share_of_copy", 2 * x.nbytes / self.bandwidth / (took * 1e-3)

    def products(self) -> Iterator[Figure]:
        for size in self.sizes:
            rows = size.num_samples * (2 * size.image_tokens + CAPTION_TOKENS + size.text_tokens)
            for part, count in {"all": rows, "expert": rows // 2}.items():
                for name, n, k in _products(size):
                    yield from attempt(name, partial(self._product, f"products_{size.name}_{part}_{name}", count, n, k))

    def _product(self, name: str, rows: int, n: int, k: int) -> Iterator[Figure]:
        x, weight, dy = self.random(rows, k), self.random(n, k), self.random(rows, n)
        calls = {"y": lambda: x @ weight.t(), "dx": lambda: dy @ weight, "dw": lambda: dy.t() @ x}
        for part, call in calls.items():
            took = milliseconds(partial(_ignoring, call), self.device)
            yield f"{name}_{part}_share_of_peak", 2 * rows * n * k / self.peak / (took * 1e-3)

    def attention(self) -> Iterator[Figure]:
        for size in self.sizes:
            heads, head_dim = HEADS[size.name]
            pair = size.image_tokens + CAPTION_TOKENS
            for length in (size.image_tokens, pair, size.text_tokens):
                for backend in ("chosen", *BACKENDS, "varlen"):
                    name = f"attention_{size.name}_{length}_{backend}"
                    shape = (length, size.num_samples, heads, head_dim)
                    yield from attempt(name, partial(self._attention, name, backend, *shape))

    def _attention(
        self, name: str, backend: str, length: int, count: int, heads: int, head_dim: int
    ) -> Iterator[Figure]:
        """Yield the speed of attention over `count` sequences; backward includes joining the gradients of q, k, v."""
        qkv = self.random(count * length, 3, heads, head_dim).requires_grad_()
        ends = torch.arange(0, (count + 1) * length, length, device=self.device, dtype=torch.int32)
        varlen = find_varlen_attention(qkv[:, 0])

        def sequences(qkv: Tensor) -> Tensor:
            assert varlen is not None
            q, k, v = qkv.unbind(1)
            return varlen(q, k, v, ends, ends, length, length)

        def samples(qkv: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in qkv.unflatten(0, (count, length)).unbind(2))
            if backend == "chosen":
                return scaled_dot_product_attention(q, k, v)
            with sdpa_kernel(BACKENDS[backend]):
                return scaled_dot_product_attention(q, k, v)

        if backend == "varlen" and varlen is None:
            print(f"{name} is left out: torch has none for this device", flush=True)
            return
        if backend == "chosen" and self.device.type == "cuda":
            q, k, v = (x.transpose(1, 2) for x in qkv.unflatten(0, (count, length)).unbind(2))
            print(f"{name}: torch chooses {SDPBackend(torch._fused_sdp_choice(q, k, v)).name}", flush=True)
        forward, backward = forward_backward_ms(sequences if backend == "varlen" else samples, [qkv])
        flops = 4 * count * length**2 * heads * head_dim
        yield f"{name}_forward_share_of_peak", flops / self.peak / (forward * 1e-3)
        yield f"{name}_backward_share_of_peak", 2.5 * flops / self.peak / (backward * 1e-3)

    def kernels(self) -> Iterator[Figure]:
        backend: Backend = "reference" if self.is_dry else "triton"
        for operation in operations(self.sizes[0], self.device):
            if operation.fewest_bytes is None:
                continue
            try:
                times = forward_backward_ms(operation.backend(backend), operation.inputs)
            except Exception as error:
                print(f"kernels_{operation.name} is left out: {reason(error)}", flush=True)
                continue
            for part, fewest, took in zip(("forward", "backward"), operation.fewest_bytes, times, strict=True):
                yield f"kernels_{operation.name}_{part}_tb_per_second", fewest / (took * 1e-3) / 1e12
                yield f"kernels_{operation.name}_{part}_share_of_copy", fewest / self.bandwidth / (took * 1e-3)

    def order(self) -> Iterator[Figure]:
        if self.device.type != "cuda":
            print("order: a CPU has no streams", flush=True)
            return
        state = torch.zeros(2**28, device=self.device)
        part = torch.zeros(2**28, device=self.device, dtype=DTYPE)
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        for _ in range(20):
            state.add_(1)
        part.copy_(state)
        with torch.cuda.stream(stream):
            seen = torch.cat([part[:1], part[-1:]])
        stream.synchronize()
        yield "order_stale_share_of_a_read_that_does_not_wait", (seen < 20).float().mean().item()


def _ignoring(call: Callable[[], object], prepared: object) -> None:
    """Call what needs nothing prepared."""
    call()


def _products(size: Size) -> list[tuple[str, int, int]]:
    """Return the names, outputs and inputs of a block's matrix products."""
    d, f = size.dim, size.ffn_dim
    return [("qkv", 3 * d, d), ("proj", d, d), ("fc1", f, d), ("fc2", d, f)]


def assumptions(figures: dict[str, float], size: str) -> Iterator[Figure]:
    """Yield what a roofline assumes, as medians of the figures of one size.

    Attention as runs call it: by the backend that torch chooses, and over sequences of different lengths.
    """
    patterns = {
        "copy_tb": r"copy_tb_per_second",
        "product_share": rf"products_{size}_.*_share_of_peak",
        "attention_forward_share": rf"attention_{size}_\d+_(chosen|varlen)_forward_share_of_peak",
        "attention_backward_share": rf"attention_{size}_\d+_(chosen|varlen)_backward_share_of_peak",
        "norms_share": r"kernels_(norm|residual.*)_share_of_copy",
        "copies_share": r"copies_.*_share_of_copy",
        "activation_forward_tb": r"kernels_activation_forward_tb_per_second",
        "activation_backward_tb": r"kernels_activation_backward_tb_per_second",
    }
    for name, pattern in patterns.items():
        values = [value for key, value in figures.items() if re.fullmatch(pattern, key)]
        if values:
            yield f"assumption_{name}", statistics.median(values)


def main() -> None:
    names = ("copies", "products", "attention", "kernels", "order")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", nargs="*", metavar="PROBE", help=f"{', '.join(names)}; default: all")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU: does everything run?")
    args = parser.parse_args()
    if unknown := set(args.probes) - set(names):
        parser.error(f"there is no probe {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    probe = Probe(torch.device("cpu" if args.dry else "cuda"), args.dry)
    figures: dict[str, float] = {}
    for name in args.probes or names:
        figures |= show(attempt(name, getattr(probe, name)))
    show(assumptions(figures, probe.sizes[0].name))
    sys.exit(not figures)  # every measurement has failed


if __name__ == "__main__":
    main()
