"""Memory of a micro-step's forward and backward, measured on any device; a gradient is freed at once, as in ZeRO."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import KernelChoice
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.micro_step import MicroStep
from tests.support.allocations import allocations, peak_bytes


def network_without_gradients(config: PretrainConfig, kernels: KernelChoice, device: torch.device) -> MaskedDataModel:
    """Return the network of a config on a device, with initial weights; backward leaves no gradient."""
    model = MaskedDataModel(config.model, kernels, config.activation_checkpointing)
    init_weights(model, config.model, 0)  # on the CPU: its generator draws there
    model = model.to(device, config.dtype)
    free_gradients(model)
    return model


def forward_and_backward(model: MaskedDataModel, micro: MicroStep) -> None:
    model(micro.inputs, micro.targets, micro.drop_path_scale).sum().backward()


def measured_peak(model: MaskedDataModel, micro: MicroStep) -> int:
    """Return the largest number of bytes that forward and backward allocate."""
    return peak_of(lambda: forward_and_backward(model, micro), micro.inputs.images.device.type)


def peak_of(step: Callable[[], object], device: str) -> int:
    """Return the largest number of bytes that a step allocates, by torch's allocator on a GPU, else its profiler."""
    if device == "cuda":
        step()  # compiles, and allocates the workspaces of cuBLAS, which are not the step's
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with allocations() as events:
        step()
    return peak_bytes(events)


def free_gradients(model: nn.Module) -> None:
    """Let backward leave no gradient: each is freed as soon as it is there, as in ZeRO."""

    def free(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(free)
