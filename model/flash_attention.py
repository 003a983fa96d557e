"""Which FlashAttention torch runs on a GPU: the second version, which it contains, or the third.

Source: Shah et al., "FlashAttention-3: Fast and Accurate Attention with Asynchrony and Low-precision" (arXiv
2407.08608). It is a package of its own, for GPUs of compute capability 9.0 (H100, H200), and torch can put it in the
place of the second version. Both calls of model/attention.py then run it, unchanged; without it torch may take cuDNN's
attention for sequences of equal lengths.
"""

import importlib
import importlib.util
from contextlib import nullcontext
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from model.config import FlashAttentionChoice

PACKAGE = "flash_attn_interface"
"""Module of the third version, built from github.com/Dao-AILab/flash-attention, folder hopper."""
TOLERANCE = 0.05
"""Largest difference of attention in bfloat16 from float32, for the queries, keys and values of `_difference`."""


def activate_flash_attention(choice: FlashAttentionChoice, device: torch.device) -> str:
    """Make torch run the chosen version on the device; return which attention runs, and why if it is not the third.

    auto: the third if it is installed, computes what it should, and the GPU fits, else the second. Raises ValueError if
    the third was chosen and cannot run.
    """
    is_gpu = device.type == "cuda"
    if choice == "2":
        return "FlashAttention 2" if is_gpu else "torch's attention"
    obstacle = (_obstacle(device) or _activation_error(device)) if is_gpu else "the device is no GPU"
    if obstacle is None:
        torch.backends.cuda.enable_cudnn_sdp(False)  # torch may prefer it for sequences of equal lengths
        return "FlashAttention 3"
    if choice == "3":
        raise ValueError(f"flash_attention is 3, but {obstacle}; set it to auto or 2")
    return f"FlashAttention 2 (not 3: {obstacle})" if is_gpu else "torch's attention"


def _obstacle(device: torch.device) -> str | None:
    """Return why the third version cannot be tried, or None."""
    major, minor = torch.cuda.get_device_capability(device)
    if major != 9:
        return f"it needs compute capability 9.0, the GPU has {major}.{minor}"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"its module {PACKAGE} is not installed"
    if _switch() is None:
        return f"torch {torch.__version__} cannot activate it"
    return None


def _switch() -> ModuleType | None:
    """Return the module of torch that changes versions, if this torch has one."""
    module = importlib.import_module("torch.nn.attention")
    names = ("activate_flash_attention_impl", "restore_flash_attention_impl", "list_flash_attention_impls")
    return module if all(hasattr(module, name) for name in names) else None


def _activation_error(device: torch.device) -> str | None:
    """Activate the third version and compare a small forward and backward; restore the second and return why on errors.

    torch 2.11 has it without a backward pass, and a build for another CUDA fails only when it is called.
    """
    switch = _switch()
    assert switch is not None
    try:
        switch.activate_flash_attention_impl("FA3")
        difference = _difference(device)
        problem = "" if difference <= TOLERANCE else f"its results differ from float32 by {difference:.2g}"
    except Exception as error:  # whatever a package of others raises, the second version still runs
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if problem:
        switch.restore_flash_attention_impl()
    return problem or None


def _difference(device: torch.device) -> float:
    """Return how far attention and its gradients in bfloat16 are from float32's, for two sequences of 128 tokens."""
    values = torch.arange(2 * 128 * 3 * 64, device=device).sin().view(2, 128, 3, 64)  # no random state is touched
    exact = _attention_and_gradient(values)
    found = _attention_and_gradient(values.bfloat16())
    differences = [(a.float() - b).abs().max() for a, b in zip(found, exact, strict=True)]
    return float(torch.stack(differences).max())  # NaN if there is one, which Python's max may pass by


def _attention_and_gradient(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.detach().requires_grad_()
    q, k, v = (x[:, None] for x in values.unbind(2))  # one head
    # torch prefers cuDNN's attention on newer GPUs and falls back to others in silence; a CPU has neither
    is_on_gpu, is_exact = values.device.type == "cuda", values.dtype == torch.float32
    backends = [SDPBackend.FLASH_ATTENTION] if is_on_gpu and not is_exact else [SDPBackend.MATH]
    with sdpa_kernel(backends) if is_on_gpu else nullcontext():
        attended = scaled_dot_product_attention(q, k, v)
    return attended.detach(), torch.autograd.grad(attended.square().sum(), values)[0]
