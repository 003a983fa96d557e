"""Do gradients repeat to the bit? python -m tests.benchmarks.bits [--deterministic] [--dry]

Forward and backward of the same micro-step, several times, with the kernels and the network of a run: the number of
parameters whose gradient ever differs from that of the first time, their names, and milliseconds. With and without the
setting `deterministic` they show what it is for and what it costs; each needs a process of its own, since cuBLAS reads
the setting once.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch

from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.determinism import use_deterministic_algorithms
from pretrain.planning.planned_kind import MicroBatch
from pretrain.recipes import RECIPES
from tests.benchmarks.timing import Figure, milliseconds, show
from tests.support.memory_ranks import random_micro_step, small_config
from tests.support.step_memory import forward_and_backward

SAMPLES, TIMES = 16, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deterministic", action="store_true", help="as the setting of a run")
    parser.add_argument("--dry", action="store_true", help="a small network on a CPU: does everything run?")
    args = parser.parse_args()
    if args.deterministic:
        use_deterministic_algorithms()
    name = "bits_deterministic" if args.deterministic else "bits_default"
    if args.dry:
        config, device, batch = small_config(1, 1), torch.device("cpu"), MicroBatch(1, 1, 1)
        config = replace(config, model=replace(config.model, depth=1, num_vl_layers=1))
    else:
        config, device, batch = RECIPES["beit3_base"](), torch.device("cuda"), MicroBatch(SAMPLES, SAMPLES, SAMPLES)
    show(repeated(name, config, device, batch, 2 if args.dry else TIMES))


def repeated(
    name: str, config: PretrainConfig, device: torch.device, batch: MicroBatch, num_times: int
) -> Iterator[Figure]:
    """Yield milliseconds of a micro-step, and the number of parameters whose gradients do not repeat."""
    model = MaskedDataModel(config.model, config.kernels, config.activation_checkpointing)
    init_weights(model, config.model, 0)
    model = model.to(device, config.dtype)
    micro = random_micro_step(config, batch, device.type)
    parameters = dict(model.named_parameters())
    forward_and_backward(model, micro)
    first = {key: _gradient(parameter) for key, parameter in parameters.items()}
    differ: set[str] = set()
    for _ in range(num_times):
        model.zero_grad()
        forward_and_backward(model, micro)
        differ |= {key for key, parameter in parameters.items() if not torch.equal(_gradient(parameter), first[key])}
    yield f"{name}_gradients", len(parameters)
    yield f"{name}_gradients_that_differ", len(differ)
    for key in sorted(differ)[:12]:
        print(f"{name}: differs: {key}", flush=True)
    times = [milliseconds(lambda _: forward_and_backward(model, micro), device, model.zero_grad, 1) for _ in range(5)]
    yield f"{name}_micro_step_ms", statistics.median(times)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


if __name__ == "__main__":
    main()
