"""Our network and torchscale's under the same DeepSpeed engine, each with a step that can be called."""

import gc
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import deepspeed
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from model.config import KernelChoice
from model.masked_data_model import MaskedDataModel
from pretrain.engine.engine import build_engine, merged_deepspeed_config
from pretrain.engine.memory_config import read_memory_config
from pretrain.jobs.pretraining import Pretraining
from tests.benchmarks.step_cases import Batch, Case
from tests.benchmarks.torchscale_step import USES, passes, with_our_weights

PEERS = ("torchscale", "torchscale_compile")
PEER_PACKAGES = {name: name for name in ("torchscale", "fairscale", "timm", "torchvision")}
PADDED = "padded"
Variant = KernelChoice | Literal["torchscale", "torchscale_compile", "padded"]
"""Our network, by its kernels, or a peer; padded: ours with kernels auto and, like the peer, rows for padding."""


@dataclass
class Competitor:
    """A network and engine that train on the case's batch repeatedly."""

    engine: deepspeed.DeepSpeedEngine
    micro_steps: Callable[[], Iterator[Tensor]]
    """Function that yields the losses of each micro-step, (4,) sums."""
    num_micro_steps: int
    counts: Tensor
    """Number of predictions of the whole step, (4,)."""

    def step(self) -> Tensor:
        """Run forward, backward and optimizer; return mean losses before it, (4,) in the order of OBJECTIVES."""
        total = torch.zeros_like(self.counts)
        for sums in self.micro_steps():
            total += sums.detach()
            self.engine.backward((sums / self.counts).sum() * self.num_micro_steps)  # DeepSpeed averages
            with record_function("optimizer"):
                self.engine.step()
        return total / self.counts

    def end(self) -> None:
        """Free the memory; no step may follow."""
        zero, module = self.engine.optimizer, self.engine.module
        self.engine.destroy()
        # DeepSpeed's hooks keep references to the engine, so its contents are freed one by one
        for parameter in module.parameters():
            parameter.data, parameter.grad = parameter.data.new_empty(0), None
            vars(parameter).clear()
        for holder in (zero.optimizer, zero, self):
            vars(holder).clear()
        free_memory()


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def build(variant: Variant, case: Case, batch: Batch, num_parts: int = 1) -> Competitor:
    """Return a competitor; num_parts: number of micro-steps that the batch is divided into."""
    parts = (batch.with_rows_for_padding() if variant == PADDED else batch).parts(num_parts)
    is_peer = variant in PEERS
    num_micro_steps = num_parts * (len(USES) if is_peer else 1)
    model = build_model(variant, case, batch.inputs.images.device)
    if variant == "torchscale_compile":
        compile_layers(model)
    engine = build_engine(
        model,
        case.config,
        deepspeed_config(case, num_micro_steps),
        # else ZeRO-3 keeps the previous gradients of experts that a pass does not use
        leaf_modules=(torchscale_layer(),) if is_peer else Pretraining.leaf_modules,
        undecayed=Pretraining.undecayed,
    )

    def ours() -> Iterator[Tensor]:
        for part in parts:
            yield engine(part.inputs, part.targets)

    def theirs() -> Iterator[Tensor]:
        for use, part in passes(parts):
            yield engine(use, part)

    return Competitor(engine, theirs if is_peer else ours, num_micro_steps, batch.targets.counts())


def torchscale_layer() -> type[nn.Module]:
    return importlib.import_module("torchscale.architecture.encoder").EncoderLayer


def compile_layers(model: nn.Module) -> None:
    """Compile each layer inside of ZeRO-3's hooks around the forward of leaf modules: engine.compile() would break the
    graph at each hook."""
    for module in model.modules():
        if isinstance(module, torchscale_layer()):
            module.forward = torch.compile(module.forward)  # type: ignore[method-assign]


def deepspeed_config(case: Case, num_micro_steps: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration for one rank."""
    merged = merged_deepspeed_config(case.config, read_memory_config(case.config.deepspeed_config), world_size=1)
    # torchscale's micro-steps differ in size, which does not matter to DeepSpeed
    sizes = {"train_batch_size": num_micro_steps, "train_micro_batch_size_per_gpu": 1}
    return merged | sizes | {"gradient_accumulation_steps": num_micro_steps}


def build_model(variant: Variant, case: Case, device: torch.device) -> nn.Module:
    """Return a model with the same random weights for all, drawn on the device: a CPU takes a minute for the giant."""
    torch.manual_seed(0)
    with device:
        model = MaskedDataModel(case.model, kernels_of(variant))
    for parameter in model.parameters():
        if parameter.ndim > 1:  # norms and biases keep their initial values
            nn.init.normal_(parameter, std=case.model.init_std)
    return with_our_weights(model.state_dict(), case.model) if variant in PEERS else model.train()


def kernels_of(variant: Variant) -> KernelChoice:
    """Return the kernels of a variant; a peer gets the weights of our network with those kernels."""
    if variant == "padded":
        return "auto"
    return "reference" if variant == "torchscale" or variant == "torchscale_compile" else variant
