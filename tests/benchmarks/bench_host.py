"""Host time of ZeRO-3's slicing by number of ranks: python -m tests.benchmarks.bench_host [--append] [--quick]

When DeepSpeed gathers, it slices every parameter once per rank and concatenates the slices; when it reduces, it slices
every gradient once per rank. No GPU works meanwhile if the host is slower than it. This runs that code of DeepSpeed,
`AllGatherCoalescedHandle.wait` and `reduce_scatter_coalesced`, for the parameters of a recipe, on a CPU and without
other ranks: tensors have as few elements as ranks, and collectives do nothing. `separate`, the peer, has a parameter
for each norm and bias, as networks usually do; `stacked` is ours (model/stacked_vectors.py).

Figures are milliseconds of CPU time per micro-step, the least of several rounds in which both took turns, since other
load on the machine only adds to it: every piece gathered once, as for a network whose weights are kept until backward,
and every gradient reduced once. Not counted: `record_stream`, which a GPU adds once per slice, and the launches of the
copies.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import tyro
from deepspeed.runtime.comm import coalesced_collectives
from deepspeed.runtime.comm.coalesced_collectives import reduce_scatter_coalesced
from deepspeed.runtime.zero import partition_parameters
from deepspeed.runtime.zero.partition_parameters import AllGatherCoalescedHandle, ZeroParamStatus
from torch import nn

from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayBlock
from pretrain.engine.memory_config import read_memory_config
from pretrain.recipes import RECIPES
from tests.benchmarks.results import append_results
from tests.support.launch import ROOT

VARIANTS = ("separate", "stacked")


@dataclass
class BenchOptions:
    append: bool = False
    """Write the figures into RESULTS.md."""
    quick: bool = False
    """One round on 8 ranks."""
    recipe: str = "beit3_giant"
    """A recipe of pretraining."""
    ranks: tuple[int, ...] = (8, 32, 128)
    """Numbers of ranks."""
    rounds: int = 5
    """Number of rounds."""


def main() -> None:
    options = tyro.cli(BenchOptions)
    torch.set_num_threads(1)
    rounds, all_ranks = (1, (8,)) if options.quick else (options.rounds, options.ranks)
    sizes = {variant: piece_sizes(options.recipe, variant) for variant in VARIANTS}
    figures: dict[str, float] = {f"{variant}_parameters": sum(map(len, pieces)) for variant, pieces in sizes.items()}
    print(f"{options.recipe}, parameters: " + ", ".join(f"{figures[f'{name}_parameters']} {name}" for name in VARIANTS))
    print("| ranks | variant | gather ms | reduce ms |\n| ---: | --- | ---: | ---: |")
    for ranks in all_ranks:
        times = [measured(sizes, ranks) for _ in range(rounds)]
        for name in times[0]:
            figures[f"{name}_ms_{ranks}_ranks"] = min(of_round[name] for of_round in times)
        for variant in VARIANTS:
            gather, reduce = (figures[f"{variant}_{name}_ms_{ranks}_ranks"] for name in ("gather", "reduce"))
            print(f"| {ranks} | {variant} | {gather:.1f} | {reduce:.1f} |", flush=True)
        figures[f"stacked_vs_separate_{ranks}_ranks"] = median(map(ratio, times))
    if options.append:
        append_results("bench_host", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def measured(sizes: Mapping[str, Sequence[Sequence[int]]], ranks: int) -> dict[str, float]:
    """Return the milliseconds of each operation of each variant, measured one after the other."""
    times = {}
    for variant, pieces in sizes.items():
        times[f"{variant}_gather"] = gather_ms(pieces, ranks)
        times[f"{variant}_reduce"] = reduce_ms(pieces, ranks)
    return times


def ratio(times: Mapping[str, float]) -> float:
    stacked, separate = (times[f"{name}_gather"] + times[f"{name}_reduce"] for name in ("stacked", "separate"))
    return stacked / separate


def piece_sizes(recipe: str, variant: str) -> list[list[int]]:
    """Return the number of elements of each parameter of each piece that ZeRO-3 gathers at once: the blocks, and what
    is outside of them."""
    with torch.device("meta"):
        model = MaskedDataModel(RECIPES[recipe]().model)

    def sizes(module: nn.Module) -> list[int]:
        parameters = module.parameters() if variant == "stacked" else module.state_dict().values()
        return [parameter.numel() for parameter in parameters]

    blocks = [module for module in model.modules() if isinstance(module, MultiwayBlock)]
    model.encoder.blocks = nn.ModuleList()
    return [*map(sizes, blocks), sizes(model)]


def gather_ms(pieces: Sequence[Sequence[int]], ranks: int) -> float:
    """Return the milliseconds of gathering every piece once."""
    handle, total = SimpleNamespace(wait=lambda: None), 0.0
    with torch.no_grad(), without_device():
        for piece in pieces:
            partitions = [torch.zeros(len(piece), dtype=torch.bfloat16) for _ in range(ranks)]
            parameters = [_partitioned(ranks) for _ in piece]
            begin = time.process_time()
            AllGatherCoalescedHandle(handle, parameters, partitions, ranks).wait()
            total += time.process_time() - begin
    return total * 1e3


def _partitioned(ranks: int) -> Any:
    """Return a parameter with one element per rank, as ZeRO-3 has it while it is gathered."""
    parameter: Any = nn.Parameter(torch.zeros(ranks, dtype=torch.bfloat16))
    parameter.ds_tensor = torch.zeros(1, dtype=torch.bfloat16)
    parameter.ds_tensor.ds_numel, parameter.ds_numel, parameter.ds_shape = 1, ranks, (ranks,)
    parameter.ds_status = ZeroParamStatus.INFLIGHT
    return parameter


def reduce_ms(pieces: Sequence[Sequence[int]], ranks: int) -> float:
    """Return the milliseconds of reducing every gradient once, in the buckets of ds_configs/zero3.json."""
    zero = read_memory_config(ROOT / "ds_configs" / "zero3.json")["zero_optimization"]
    total = 0.0
    with torch.no_grad(), without_device(ranks):
        for count in bucket_counts([size for piece in pieces for size in piece], int(zero["reduce_bucket_size"])):
            gradients = [torch.zeros(ranks, dtype=torch.bfloat16) for _ in range(count)]
            begin = time.process_time()
            reduce_scatter_coalesced(gradients)
            total += time.process_time() - begin
    return total * 1e3


def bucket_counts(sizes: Sequence[int], bucket_size: int) -> list[int]:
    """Return the number of gradients in each bucket: it is reduced before one that would exceed it."""
    counts, elements = [0], 0
    for size in sizes:
        if elements and elements + size > bucket_size:
            counts.append(0)
            elements = 0
        counts[-1] += 1
        elements += size
    return counts


@contextmanager
def without_device(ranks: int = 1) -> Iterator[None]:
    """Let DeepSpeed run as on a GPU that is one of `ranks`, with collectives and `record_stream` that do nothing."""
    group = SimpleNamespace(get_rank=lambda group: 0, get_world_size=lambda group: ranks)
    accelerator = SimpleNamespace(is_synchronized_device=lambda: False, current_stream=lambda: None)

    def nothing(*arguments: Any, **options: Any) -> None:  # a Mock would take longer than what it replaces
        pass

    def get_accelerator() -> Any:
        return accelerator

    with (
        mock.patch.object(coalesced_collectives, "dist", group),
        mock.patch.object(coalesced_collectives, "_torch_reduce_scatter_fn", nothing),
        mock.patch.object(partition_parameters, "get_accelerator", get_accelerator),
        mock.patch.object(torch.Tensor, "record_stream", nothing),
    ):
        yield


if __name__ == "__main__":
    main()
