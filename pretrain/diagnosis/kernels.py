"""One micro-step of a tiny network with each implementation of the kernels, compared with plain torch.

Shapes: I = 1 image, P = 2 pairs, T = 1 text.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from model.config import KernelChoice, MultiwayConfig
from pretrain.diagnosis.findings import Finding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.masked_data_model import MaskedTargets
    from model.multiway import MultiwayInputs

TINY = MultiwayConfig(
    dim=64,
    depth=2,
    num_heads=4,
    ffn_dim=128,
    num_vl_layers=1,
    image_size=32,
    patch_size=8,
    vocab_size=96,
    num_visual_tokens=64,
    max_text_length=16,
)
TOLERANCE = 1e-3
"""Largest difference of losses and gradients from plain torch's, relative to the largest value, in float32."""


def micro_steps(several: tuple[KernelChoice, ...], chosen: KernelChoice) -> Iterator[Finding]:
    """Yield the findings of several kernels, in one process. chosen: those of the recipe."""
    for kernels in several:
        yield from micro_step(kernels, kernels == chosen)


def micro_step(kernels: KernelChoice, is_chosen: bool) -> Iterator[Finding]:
    """Yield whether forward and backward of a tiny network run with these kernels and agree with plain torch.

    is_chosen: the recipe asks for them, so that their absence is an error.
    """
    import torch

    from model.kernels.backend import choose_backend

    subject = f"kernels {kernels}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        choose_backend(kernels, device)
    except ValueError as error:
        reason = str(error).removeprefix(f"kernels is {kernels}, ").removeprefix("which ").removeprefix("but ")
        text, _, remedy = reason.rpartition("; ")
        yield Finding("error", subject, text, remedy) if is_chosen else Finding("ok", subject, f"not run: {text}")
        return
    if kernels == "compile" and not is_chosen:
        yield _compiled_function(device)
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        found = losses_and_gradient(kernels, device)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield Finding("error" if is_chosen else "warning", subject, reason, "train with --kernels reference")
        return
    exact = found if kernels == "reference" else losses_and_gradient("reference", device)
    scale = exact.abs().max()
    difference = float((found - exact).abs().max() / scale)
    if not found.isfinite().all() or difference > TOLERANCE:
        text = f"losses or gradients differ from plain torch by {difference:.1e} of the largest"
        yield Finding("error" if is_chosen else "warning", subject, text, "train with --kernels reference")
        return
    compared = "" if kernels == "reference" else f", within {difference:.0e} of plain torch"
    yield Finding("ok", subject, f"a micro-step runs on the {'GPU' if device.type == 'cuda' else 'CPU'}{compared}")


def _compiled_function(device: "torch.device") -> Finding:
    """Return whether torch.compile works at all; a whole micro-step takes it more than a minute on a CPU."""
    import torch

    from model.kernels.compiled import compiled

    subject, x = "kernels compile", torch.linspace(-1, 1, 64, device=device)
    try:
        difference = float((compiled(_gelu_of_sum)(x, x) - _gelu_of_sum(x, x)).abs().max())
    except Exception as error:
        reason = f"torch.compile fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Finding("warning", subject, reason, "it is needed for --kernels compile only")
    if difference > TOLERANCE:
        return Finding("warning", subject, f"a compiled function is off by {difference:.1e}", "use other --kernels")
    return Finding("ok", subject, "a function is compiled; the whole micro-step is if the recipe has --kernels compile")


def _gelu_of_sum(x: "Tensor", y: "Tensor") -> "Tensor":
    from torch.nn.functional import gelu

    return gelu(x + y)


def losses_and_gradient(kernels: KernelChoice, device: "torch.device") -> "Tensor":
    """Return the four sums of losses and the gradients of all parameters of a tiny network, in one float32 vector."""
    import torch

    from model.initialization import init_weights
    from model.masked_data_model import MaskedDataModel

    model = MaskedDataModel(TINY, kernels)
    init_weights(model, TINY, seed=0)
    model.to(device)
    inputs, targets = tiny_micro_step(device)
    losses = model(inputs, targets)
    losses.sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([losses.detach(), *gradients]).float().cpu()


def tiny_micro_step(device: "torch.device") -> "tuple[MultiwayInputs, MaskedTargets]":
    """Return the inputs and targets of one image, two pairs and one text, the same in every call."""
    import torch

    from model.masked_data_model import MaskedTargets
    from model.multiway import MultiwayInputs

    generator = torch.Generator().manual_seed(0)

    def ids(highest: int, *shape: int) -> "Tensor":
        return torch.randint(4, highest, shape, generator=generator).to(device)

    hidden = torch.zeros(3, TINY.num_patches, dtype=torch.bool)
    hidden[:, :6] = True
    no_padding = torch.zeros(2, 8, dtype=torch.bool, device=device)
    inputs = MultiwayInputs(
        images=torch.randn(3, 3, TINY.image_size, TINY.image_size, generator=generator).to(device),
        image_mask=hidden.to(device),
        caption_ids=ids(TINY.vocab_size, 2, 8),
        caption_padding=no_padding,
        text_ids=ids(TINY.vocab_size, 1, 8),
        text_padding=no_padding[:1],
    )
    positions = torch.arange(6, device=device)
    targets = MaskedTargets(
        image_positions=positions.expand(3, 6),
        visual_token_ids=ids(TINY.num_visual_tokens, 3, 6),
        caption_positions=positions[:4].expand(2, 4),
        caption_labels=ids(TINY.vocab_size, 2, 4),
        text_positions=positions[:2].expand(1, 2),
        text_labels=ids(TINY.vocab_size, 1, 2),
    )
    return inputs, targets
