"""Memory of a micro-step's forward and backward, measured on any device; a gradient is freed at once, as in ZeRO."""

import torch
from torch import Tensor

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

    def free(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(free)
    return model


def forward_and_backward(model: MaskedDataModel, micro: MicroStep) -> None:
    model(micro.inputs, micro.targets, micro.drop_path_scale).sum().backward()


def measured_peak(model: MaskedDataModel, micro: MicroStep) -> int:
    """Return the largest number of bytes that forward and backward allocate, by torch's allocator or its profiler."""
    if micro.inputs.images.device.type == "cuda":
        forward_and_backward(model, micro)  # compiles, and allocates the workspaces of cuBLAS, which are not the step's
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_and_backward(model, micro)
        return torch.cuda.max_memory_allocated() - before
    with allocations() as events:
        forward_and_backward(model, micro)
    return peak_bytes(events)
