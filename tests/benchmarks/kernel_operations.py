"""The operations of model/kernels at the sizes of BEiT-3, each with its definition in plain torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.expert_activation import expert_activation, expert_gelu_reference
from model.kernels.expert_ffn import ExpertWeights, expert_ffn
from model.kernels.expert_linear import expert_linear_reference
from model.kernels.expert_norm import expert_norm, expert_norm_reference
from model.kernels.masked_cross_entropy import masked_cross_entropy
from model.kernels.residual_norm import residual_norm, residual_norm_reference
from model.kernels.token_assembly import ImagePieces, TextPieces, assemble_tokens, token_assembly_reference
from model.layout import TWO_EXPERTS, PackedLayout, packed_layout, unpadded_texts
from model.residual import Branch

NAMES = ("norm", "residual", "residual_drop_path", "activation", "assembly", "ffn")


@dataclass(frozen=True)
class Size:
    """A network's widths, and samples of each kind in a micro-step."""

    name: str
    dim: int
    ffn_dim: int
    image_tokens: int
    num_samples: int
    caption_tokens: int = 64
    text_tokens: int = 512
    vocab_size: int = 64010

    def layout(self) -> PackedLayout:
        captions, texts = (
            unpadded_texts(torch.zeros(self.num_samples, length, dtype=torch.bool), (length,) * self.num_samples)
            for length in (self.caption_tokens, self.text_tokens)
        )
        return packed_layout(self.num_samples, self.image_tokens, captions, texts)


def sizes(num_samples: int) -> list[Size]:
    """Return giant with num_samples of each kind, and base with four times as many."""
    return [Size("base", 768, 3072, 197, 4 * num_samples), Size("giant", 1408, 6144, 257, num_samples)]


@dataclass(frozen=True)
class Operation:
    """An operation to measure."""

    name: str
    inputs: list[Tensor]
    plain: Callable[..., Any]
    """The operation in plain torch, for eager and torch.compile."""
    backend: Callable[[Backend], Callable[..., Any]]
    """Our implementation."""
    fewest_bytes: tuple[int, int] | None = None
    """Bytes that forward and backward must move; None if matrix products dominate."""
    unit: int = 1
    """Elements of the widest matrix, the unit in which bytes are reported."""
    liger: Callable[..., Any] | None = None
    """The operation by liger-kernel, if installed."""


def operations(size: Size, device: torch.device) -> list[Operation]:
    """Return the operations in bfloat16, with two experts as in most blocks."""
    layout = size.layout()
    rows, dim, ffn_dim = layout.rows(TWO_EXPERTS), size.dim, size.ffn_dim
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        return values.mul_(0.05 if len(shape) == 2 and shape[0] != rows.num_rows else 1).requires_grad_()

    x, narrow, wide = (rows.num_rows, dim), (2, dim), (2, ffn_dim)
    stream, hidden = rows.num_rows * dim, rows.num_rows * ffn_dim
    return [
        Operation(
            "norm",
            [random(*x), random(*narrow), random(*narrow)],
            partial(expert_norm_reference, rows=rows),
            lambda backend: partial(expert_norm, rows=rows, backend=backend),
            (4 * stream, 6 * stream),
            stream,
        ),
        _residual("residual", None, rows, random, dim),
        _residual("residual_drop_path", torch.full(x[:1], 1.25, device=device), rows, random, dim),
        Operation(
            "activation",
            [random(rows.num_rows, ffn_dim), random(*wide), random(*wide), random(*wide)],
            partial(_plain_activation, rows=rows),
            lambda backend: partial(expert_activation, rows=rows, backend=backend),
            (4 * hidden, 6 * hidden),
            hidden,
        ),
        _assembly(size, layout, random, device),
        Operation(
            "ffn",
            [random(*shape) for shape in (x, x, narrow, narrow, narrow, wide, wide, wide)]
            + [random(*shape) for shape in [(ffn_dim, dim)] * 2 + [(dim, ffn_dim)] * 2],
            partial(_plain_ffn, rows=rows),
            lambda backend: partial(_our_ffn, rows=rows, backend=backend),
            unit=hidden,
        ),
    ]


def head(size: Size, device: torch.device) -> Operation:
    """Return the loss of a micro-step's masked words: 15 % of the texts, half of the captions."""
    num_masked = size.num_samples * (size.text_tokens * 15 // 100 + size.caption_tokens // 2)
    labels = torch.randint(size.vocab_size, (num_masked,), device=device)
    shapes = [(num_masked, size.dim), (size.vocab_size, size.dim), (size.vocab_size,)]
    inputs = [torch.randn(shape, device=device, dtype=torch.bfloat16).mul_(0.05).requires_grad_() for shape in shapes]

    def liger(hidden: Tensor, weight: Tensor, bias: Tensor) -> Any:
        functional = import_module("liger_kernel.transformers.functional")
        return functional.liger_cross_entropy(linear(hidden, weight, bias).float(), labels, reduction="none")

    return Operation(
        "head",
        inputs,
        lambda hidden, weight, bias: cross_entropy(linear(hidden, weight, bias).float(), labels, reduction="none"),
        lambda backend: partial(masked_cross_entropy, labels=labels, backend=backend),
        liger=liger,
    )


def _residual(name: str, scale: Tensor | None, rows: ExpertRows, random: Callable[..., Tensor], dim: int) -> Operation:
    stream = rows.num_rows * dim
    return Operation(
        name,
        [random(rows.num_rows, dim) for _ in range(2)] + [random(2, dim) for _ in range(3)],
        partial(_plain_residual, rows=rows, scale=scale),
        lambda backend: partial(_our_residual, rows=rows, scale=scale, backend=backend),
        (8 * stream, (8 if scale is None else 10) * stream),
        stream,
    )


def _plain_residual(x: Tensor, output: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, *,
                    rows: ExpertRows, scale: Tensor | None) -> tuple[Tensor, Tensor]:  # fmt: skip
    return residual_norm_reference(x, Branch(output, bias, rows, scale), weight, norm_bias, rows)


def _our_residual(x: Tensor, output: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, *,
                  rows: ExpertRows, scale: Tensor | None, backend: Backend) -> tuple[Tensor, Tensor]:  # fmt: skip
    return residual_norm(x, Branch(output, bias, rows, scale), weight, norm_bias, rows, backend)


def _plain_activation(h: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, *, rows: ExpertRows) -> Tensor:
    return expert_norm_reference(expert_gelu_reference(h, bias, rows), weight, norm_bias, rows)


def _weights(vectors: tuple[Tensor, ...]) -> ExpertWeights:
    norm_weight, norm_bias, fc1_bias, subln_weight, subln_bias, *matrices = vectors
    return ExpertWeights(norm_weight, norm_bias, matrices[:2], fc1_bias, subln_weight, subln_bias, matrices[2:])


def _plain_ffn(x: Tensor, output: Tensor, bias: Tensor, *vectors: Tensor, rows: ExpertRows) -> tuple[Tensor, Tensor]:
    weights = _weights(vectors)
    stream, normed = residual_norm_reference(
        x, Branch(output, bias, rows), weights.norm_weight, weights.norm_bias, rows
    )
    h = expert_linear_reference(normed, weights.fc1, None, rows)
    y = _plain_activation(h, weights.fc1_bias, weights.subln_weight, weights.subln_bias, rows=rows)
    return stream, expert_linear_reference(y, weights.fc2, None, rows)


def _our_ffn(x: Tensor, output: Tensor, bias: Tensor, *vectors: Tensor, rows: ExpertRows,
             backend: Backend) -> tuple[Tensor, Tensor]:  # fmt: skip
    return expert_ffn(x, Branch(output, bias, rows), _weights(vectors), rows, backend)


def _assembly(size: Size, layout: PackedLayout, random: Callable[..., Tensor], device: torch.device) -> Operation:
    """Return the assembly of packed rows, with 40 % of the patches hidden."""
    num_images, num_patches, dim = 2 * size.num_samples, size.image_tokens - 1, size.dim
    image_mask = torch.rand(num_images, num_patches, device=device) < 0.4
    word_positions, cu_seqlens = (tensor.to(device) for tensor in layout.word_positions())
    num_words = size.num_samples * (size.caption_tokens + size.text_tokens)
    vectors = [random(dim), random(dim), random(size.image_tokens, dim)]
    inputs = [random(num_images, num_patches, dim), *vectors, random(num_words, dim), random(size.text_tokens, dim)]

    def plain(*pieces: Tensor) -> Tensor:
        return token_assembly_reference(ImagePieces(*pieces[:4]), TextPieces(*pieces[4:]), image_mask, word_positions)

    def ours(*pieces: Tensor, backend: Backend) -> Tensor:
        images, texts = ImagePieces(*pieces[:4]), TextPieces(*pieces[4:])
        return assemble_tokens(images, texts, image_mask, word_positions, cu_seqlens, backend)

    stream, words = layout.num_rows * dim, num_words * dim
    fewest = (4 * stream, 4 * stream - 2 * words)
    return Operation("assembly", inputs, plain, lambda backend: partial(ours, backend=backend), fewest, stream)
