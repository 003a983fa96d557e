"""Memory and time of a micro-step, planned and measured, for each checkpointing mode and kernel backend.

    python -m tests.benchmarks.bench_memory [--quick] [--append] [--recipe beit3_base] [--samples 8]

With a GPU: the recipe in bfloat16, forward and backward of `samples` samples of each kind, bytes by
torch.cuda.max_memory_allocated. Without one: a narrow network in float32, bytes by torch's profiler, reference
kernels only. Each gradient is freed as soon as it is computed, as in ZeRO.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch

from model.config import Checkpointing
from model.kernels.backend import Backend
from model.masked_data_model import MaskedDataModel
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.micro_step import MicroStep
from pretrain.planning.micro_step_memory import micro_step_memory
from pretrain.planning.planned_kind import MicroBatch
from pretrain.recipes import RECIPES
from tests.benchmarks.results import append_results
from tests.support.memory_ranks import random_micro_step, small_config
from tests.support.step_memory import forward_and_backward, measured_peak, network_without_gradients

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two samples of each kind, timed once")
    parser.add_argument("--append", action="store_true", help="append to RESULTS.md")
    parser.add_argument("--recipe", default="beit3_base", choices=RECIPES, help="on a GPU")
    parser.add_argument("--samples", type=int, default=8, help="of each kind")
    args = parser.parse_args()
    config = RECIPES[args.recipe]() if HAS_GPU else small_config(1, 1)
    batch = MicroBatch(*[2 if args.quick else args.samples] * 3)
    kernels: list[Backend] = ["reference", "triton"] if HAS_GPU else ["reference"]
    figures: dict[str, float] = {}
    print(f"{'checkpointing':<16}{'kernels':<12}{'planned MB':>12}{'measured MB':>13}{'ratio':>8}{'seconds':>10}")
    for backend in kernels:
        for mode, way in checkpointing_modes(config).items():
            planned = micro_step_memory(way, batch, backend).activations
            measured, seconds = measure(way, batch, backend, 1 if args.quick else 5)
            print(
                f"{mode:<16}{backend:<12}{planned / 1e6:>12.1f}{measured / 1e6:>13.1f}{planned / measured:>8.3f}"
                f"{seconds:>10.3f}",
                flush=True,
            )
            name = f"{mode}_{backend}"
            figures |= {
                f"{name}_planned_mb": planned / 1e6,
                f"{name}_measured_mb": measured / 1e6,
                f"{name}_planned_vs_measured": planned / measured,
                f"{name}_seconds": seconds,
            }
    if args.append:
        append_results("bench_memory", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def checkpointing_modes(config: PretrainConfig) -> dict[str, PretrainConfig]:
    """Return configs with activation checkpointing of every block and of every second block, by name."""
    settings = {
        "none": Checkpointing(),
        "selective": Checkpointing("selective"),
        "full_every_2": Checkpointing("full", every=2),
        "full": Checkpointing("full"),
    }
    return {name: replace(config, activation_checkpointing=setting) for name, setting in settings.items()}


def measure(config: PretrainConfig, batch: MicroBatch, backend: Backend, num_times: int) -> tuple[int, float]:
    """Return peak bytes beyond weights and inputs, and median seconds of a forward and backward."""
    model = network_without_gradients(config, backend, DEVICE)
    micro = random_micro_step(config, batch, DEVICE.type)
    forward_and_backward(model, micro)  # compiles and tunes
    peak = measured_peak(model, micro)
    return peak, statistics.median(seconds(model, micro) for _ in range(num_times))


def seconds(model: MaskedDataModel, micro: MicroStep) -> float:
    """Return the seconds of a forward and backward."""
    if HAS_GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    forward_and_backward(model, micro)
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
