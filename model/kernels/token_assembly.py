"""The packed rows from their pieces: patches, class and mask token, words and positions, each row written once.

    images[b, 0]     = class token + positions[0]
    images[b, v]     = (mask token if image_mask[b, v - 1] else patches[b, v - 1]) + positions[v]
    words[r]         = words[r] + text positions[position of r in its text]

Words come as rows, not as table and ids: ZeRO-3 then need not keep the table of 64,010 words gathered after the call of
nn.Embedding, and its gradient is torch's. Bytes, for N rows of D in bfloat16 (masked patches count, although ours does
not read them):

| | forward | backward |
| --- | --- | --- |
| the fewest, and ours | 4 N D: read patches and words, write the rows | 4 N D - 2 R D: read dy, write dpatches |
| eager | 14 N D | 6 N D |
| torch.compile | 7 N D | 14 N D |

The gradient of words is dy itself. Counted by tests/benchmarks/bench_kernels.py for two experts, operation by
operation, and for torch.compile as Inductor counts its own kernels on a CPU. Eager masks patches, puts the class token
before them, adds positions and joins the kinds, each with a read and a write of everything. torch.compile sums the
gradients of the words' positions by atomics, with other bits in every run, so `kernels` compile leaves those to eager.
Every piece has a gradient in every step, zeros if nothing used it: ZeRO-3 needs that (see model/experts.py).

A program owns one position and some columns, and loops over the samples: it reads the position embedding once, and sums
its gradient in a fixed order without atomics. The mask token's gradient is then the sum of V - 1 rows of floats.

Shapes: B images; V image tokens; R words of T captions and texts, the longest of L words; N packed rows, D dim.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from model.kernels.backend import Backend
from model.kernels.compiled import compiled
from model.kernels.language import jit, tl

SAMPLES, COLUMNS = 8, 128
"""Size of the tile that a program handles at a time."""


class ImagePieces(NamedTuple):
    """The pieces of images. A tuple, because ZeRO-3's hooks look for tensors in tuples only."""

    patches: Tensor
    """(B, V - 1, D)"""
    cls_token: Tensor
    """(D,)"""
    mask_token: Tensor
    """(D,)"""
    positions: Tensor
    """(V, D)"""


class TextPieces(NamedTuple):
    """The pieces of captions and texts."""

    words: Tensor
    """(R, D), captions first."""
    positions: Tensor
    """(L, D)"""


def token_assembly_reference(
    images: ImagePieces, texts: TextPieces, image_mask: Tensor, word_positions: Tensor
) -> Tensor:
    """Return the rows: the definition. Shapes as in `assemble_tokens`."""
    return _joined(images, texts.words, embedding(word_positions, texts.positions), image_mask)


def _joined(images: ImagePieces, words: Tensor, position_embeddings: Tensor, image_mask: Tensor) -> Tensor:
    # torch.where keeps the mask token in the graph of every step, even if nothing is masked: ZeRO-3 needs its gradient
    patches = torch.where(image_mask[..., None], images.mask_token, images.patches)
    tokens = torch.cat([images.cls_token.expand(len(patches), 1, -1), patches], dim=1) + images.positions
    return torch.cat([tokens.flatten(0, 1), words + position_embeddings])


@jit
def _image_rows(start, position, mask_ptr, num_images, num_tokens, SAMPLES: tl.constexpr):
    """Return, for a tile of samples at one position: whether they exist, whether they are patches, their rows among all
    and among the patches, and whether the class or mask token replaces the patch."""
    samples = (start + tl.arange(0, SAMPLES)).to(tl.int64)
    exists = samples < num_images
    rows = samples * num_tokens + position
    is_patch = exists & (rows > samples * num_tokens)
    patch_rows = rows - samples - 1
    is_token = tl.load(mask_ptr + patch_rows, mask=is_patch, other=1) != 0
    return exists, is_patch, rows, patch_rows, is_token


@jit
def _text_rows(start, position, cu_seqlens_ptr, num_texts, SAMPLES: tl.constexpr):
    """Return, for a tile of texts at one position: whether they are long enough, and their rows among the words."""
    samples = start + tl.arange(0, SAMPLES)
    first = tl.load(cu_seqlens_ptr + samples, mask=samples < num_texts, other=0)
    end = tl.load(cu_seqlens_ptr + samples + 1, mask=samples < num_texts, other=0)
    return position < end - first, (first + position).to(tl.int64)


@jit(do_not_specialize=["num_images", "num_tokens"])
def _image_tokens_forward(
    patches_ptr, mask_ptr, cls_token_ptr, mask_token_ptr, positions_ptr, out_ptr, num_images, num_tokens,
    D: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < D
    added = tl.load(positions_ptr + position * D + columns, mask=inside, other=0.0).to(tl.float32)
    token_ptr = cls_token_ptr if position == 0 else mask_token_ptr
    token = tl.load(token_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, num_images, SAMPLES):
        exists, is_patch, rows, patch_rows, is_token = _image_rows(
            start, position, mask_ptr, num_images, num_tokens, SAMPLES
        )
        seen = (is_patch & (is_token == 0))[:, None] & inside[None, :]
        patches = tl.load(patches_ptr + patch_rows[:, None] * D + columns[None, :], mask=seen, other=0.0)
        tokens = tl.where(is_token[:, None], token[None, :], patches.to(tl.float32))
        tl.store(
            out_ptr + rows[:, None] * D + columns[None, :], tokens + added[None, :],
            mask=exists[:, None] & inside[None, :],
        )  # fmt: skip


@jit(do_not_specialize=["num_images", "num_tokens"])
def _image_tokens_backward(
    dy_ptr, mask_ptr, dpatches_ptr, dpositions_ptr, dtokens_ptr, num_images, num_tokens,
    D: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < D
    position_sum = tl.zeros([SAMPLES, COLUMNS], tl.float32)
    token_sum = tl.zeros([SAMPLES, COLUMNS], tl.float32)
    for start in range(0, num_images, SAMPLES):
        exists, is_patch, rows, patch_rows, is_token = _image_rows(
            start, position, mask_ptr, num_images, num_tokens, SAMPLES
        )
        used = exists[:, None] & inside[None, :]
        dy = tl.load(dy_ptr + rows[:, None] * D + columns[None, :], mask=used, other=0.0).to(tl.float32)
        dtoken = tl.where(is_token[:, None], dy, 0.0)
        tl.store(
            dpatches_ptr + patch_rows[:, None] * D + columns[None, :], dy - dtoken,
            mask=is_patch[:, None] & inside[None, :],
        )  # fmt: skip
        position_sum += dy
        token_sum += dtoken
    tl.store(dpositions_ptr + position * D + columns, tl.sum(position_sum, 0), mask=inside)
    tl.store(dtokens_ptr + position * D + columns, tl.sum(token_sum, 0), mask=inside)


@jit(do_not_specialize=["num_texts"])
def _text_tokens_forward(
    words_ptr, cu_seqlens_ptr, positions_ptr, out_ptr, num_texts,
    D: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < D
    added = tl.load(positions_ptr + position * D + columns, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, num_texts, SAMPLES):
        exists, rows = _text_rows(start, position, cu_seqlens_ptr, num_texts, SAMPLES)
        offsets = rows[:, None] * D + columns[None, :]
        used = exists[:, None] & inside[None, :]
        words = tl.load(words_ptr + offsets, mask=used, other=0.0).to(tl.float32)
        tl.store(out_ptr + offsets, words + added[None, :], mask=used)


@jit(do_not_specialize=["num_texts"])
def _text_positions_backward(
    dy_ptr, cu_seqlens_ptr, dpositions_ptr, num_texts, D: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    position = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < D
    position_sum = tl.zeros([SAMPLES, COLUMNS], tl.float32)
    for start in range(0, num_texts, SAMPLES):
        exists, rows = _text_rows(start, position, cu_seqlens_ptr, num_texts, SAMPLES)
        used = exists[:, None] & inside[None, :]
        position_sum += tl.load(dy_ptr + rows[:, None] * D + columns[None, :], mask=used, other=0.0).to(tl.float32)
    tl.store(dpositions_ptr + position * D + columns, tl.sum(position_sum, 0), mask=inside)


class _TokenAssembly(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, patches: Tensor, cls_token: Tensor, mask_token: Tensor, image_positions: Tensor, words: Tensor,
        text_positions: Tensor, image_mask: Tensor, cu_seqlens: Tensor,
    ) -> Tensor:  # fmt: skip
        assert words.dtype == patches.dtype and cu_seqlens.dtype == torch.int32
        image_mask = image_mask.contiguous().view(torch.uint8)
        num_image_rows = len(patches) * len(image_positions)
        out = patches.new_empty(num_image_rows + len(words), patches.shape[-1])
        images, texts = out.split([num_image_rows, len(words)])
        _launch(
            _image_tokens_forward, len(image_positions), out.shape[1],
            patches.contiguous(), image_mask, cls_token.contiguous(), mask_token.contiguous(),
            image_positions.contiguous(), images, len(patches), len(image_positions),
        )  # fmt: skip
        _launch(
            _text_tokens_forward, len(text_positions), out.shape[1],
            words.contiguous(), cu_seqlens, text_positions.contiguous(), texts, len(cu_seqlens) - 1,
        )  # fmt: skip
        ctx.save_for_backward(image_mask, cu_seqlens)
        ctx.num_text_positions = len(text_positions)
        ctx.dtypes = [piece.dtype for piece in (cls_token, mask_token, image_positions, text_positions)]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image_mask, cu_seqlens = ctx.saved_tensors
        dy = grads[0].contiguous()
        dim = dy.shape[1]
        num_images, num_patches = image_mask.shape
        num_positions, num_image_rows = num_patches + 1, num_images * (num_patches + 1)
        dwords = dy[num_image_rows:]
        dpatches = dy.new_empty(num_images, num_patches, dim)
        dtokens = dy.new_empty(num_positions, dim, dtype=torch.float32)  # of the class token, then of the mask token
        cls_type, mask_type, image_type, text_type = ctx.dtypes
        dimage_positions = dy.new_empty(num_positions, dim, dtype=image_type)
        dtext_positions = dy.new_empty(ctx.num_text_positions, dim, dtype=text_type)
        _launch(
            _image_tokens_backward, num_positions, dim,
            dy, image_mask, dpatches, dimage_positions, dtokens, num_images, num_positions,
        )  # fmt: skip
        _launch(
            _text_positions_backward, ctx.num_text_positions, dim,
            dwords, cu_seqlens, dtext_positions, len(cu_seqlens) - 1,
        )  # fmt: skip
        # the mask token stands at every position but the first: each program wrote the sum at its position
        dcls, dmask = dtokens[0].to(cls_type), dtokens[1:].sum(0).to(mask_type)
        return dpatches, dcls, dmask, dimage_positions, dwords, dtext_positions, None, None


def _launch(kernel: Any, num_positions: int, dim: int, *args: Any) -> None:
    if num_positions:
        grid = (num_positions, -(-dim // COLUMNS))
        kernel[grid](*args, D=dim, SAMPLES=SAMPLES, COLUMNS=COLUMNS, num_warps=4)


def assemble_tokens(
    images: ImagePieces,
    texts: TextPieces,
    image_mask: Tensor,
    word_positions: Tensor,
    cu_seqlens: Tensor,
    backend: Backend,
) -> Tensor:
    """Return the packed rows (N, D): images, then words.

    image_mask: (B, V - 1) bool, True = masked. The lengths of the texts come in two forms, since the reference looks
    positions up and the kernels loop over texts: word_positions, (R,) int64, each word's position in its text, and
    cu_seqlens, (T + 1,) int32 cumulative lengths.
    """
    if backend == "triton":
        return _TokenAssembly.apply(*images, *texts, image_mask, cu_seqlens)
    if backend == "compile":
        # the words' positions are looked up outside of the compiled function, see above
        return compiled(_joined)(images, texts.words, embedding(word_positions, texts.positions), image_mask)
    return token_assembly_reference(images, texts, image_mask, word_positions)
