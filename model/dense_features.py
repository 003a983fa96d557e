"""Maps of features for detection and segmentation: a Multiway Transformer's image side as a backbone.

Images may have any size and aspect: they are padded to whole patches at the bottom and on the right, and positions are
interpolated. A map is the residual stream after a block, one vector per patch, before the final norm. Under
torch.autocast the blocks compute in its type.

Attention over a whole image is quadratic in its pixels. With `Windows`, most blocks attend within windows only, as in
ViTDet: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv 2203.16527). As there, the
class token is then left out. Patches are ordered by window once, before the first block: norms and experts work on rows
and see no difference, and a window is one more kind of sequence to the attention of the packed step. So windows at the
border of a grid that they do not divide are smaller; ViTDet's reference code fills them up with zeros, which take part.

Shapes: B images, H, W their sides in pixels; h, w patches down and across; D dim; T tokens of an image, with the class
token if there is one; N = B T rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.kernels.backend import choose_backend
from model.layout import PackedLayout, Sequences, packed_layout, unpadded_texts
from model.multiway import MultiwayBlock, MultiwayTransformer, call_block
from model.residual import Branch, add_branch
from model.stacked_vectors import NAME

NUM_GLOBAL_BLOCKS = 4
"""Number of blocks that see the whole image, in ViTDet."""


@dataclass(frozen=True)
class Windows:
    """Attention within square windows of patches, except in a few blocks."""

    side: int = 14
    """Side of a window in patches: 14 is the whole grid of an image of 224 px with patches of 16."""
    global_blocks: tuple[int, ...] | None = None
    """Numbers of the blocks that see the whole image, 1 = the first; None: four at even distances, up to the last."""

    def chosen_global_blocks(self, depth: int) -> frozenset[int]:
        """Return the numbers of the global blocks of a network. Raises ValueError if it does not have them."""
        chosen = even_blocks(depth, NUM_GLOBAL_BLOCKS) if self.global_blocks is None else self.global_blocks
        _check_blocks("global block", chosen, depth)
        if self.side < 1:
            raise ValueError(f"a window of side {self.side} holds no patch; give at least 1")
        return frozenset(chosen)


def even_blocks(depth: int, count: int) -> tuple[int, ...]:
    """Return the numbers of `count` blocks at even distances, the last one included: of 12 and 4, (3, 6, 9, 12)."""
    return tuple(sorted({max(1, depth * place // count) for place in range(1, count + 1)}))


class DenseBackbone(nn.Module):
    """The maps of a Multiway Transformer after some of its blocks.

    It holds the modules of the network, not copies, and makes those parameters trainable that images pass through. The
    others, such as language experts, are frozen, so that no wrapper of distributed training waits for their gradients.
    """

    def __init__(
        self,
        encoder: MultiwayTransformer,
        layers: Sequence[int] | None = None,
        windows: Windows | None = None,
        drop_path_rate: float = 0.0,
    ):
        """layers: numbers of the blocks whose maps are returned, 1 = the first; None: the last. drop_path_rate: of the
        last block in training, growing linearly from 0 at the first; the draws are torch's, as a framework seeds them.

        Raises ValueError for blocks that the network does not have.
        """
        super().__init__()
        config = encoder.config
        self.layers = (config.depth,) if layers is None else tuple(layers)
        _check_blocks("layer", self.layers, config.depth)
        self.windows = windows
        self.global_blocks = None if windows is None else windows.chosen_global_blocks(config.depth)
        self.drop_path_rate = drop_path_rate
        self.kernels, self.checkpointing = encoder.kernels, encoder.checkpointing
        self.patch_size, self.dim = config.patch_size, config.dim
        self.vision_embed = encoder.vision_embed
        self.blocks = encoder.blocks[: max(self.layers)]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(_sees_images(name, has_class_token=windows is None))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, in the order of `layers`, each (B, D, h, w).

        images: (B, 3, H, W), normalised as the network was trained; h = ceil(H / patch_size), w = ceil(W / patch_size).
        Raises ValueError for another shape.
        """
        images = padded(images, self.patch_size)
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        order = None if self.windows is None else window_order(grid, self.windows.side, images.device)
        tokens, dtype = self._tokens(images, grid, order), autocast_dtype(images.device)
        if dtype is None:
            states = self._states(tokens, grid, None)
        else:
            with torch.autocast(images.device.type, enabled=False):  # the blocks cast their parameters themselves
                states = self._states(tokens.to(dtype), grid, dtype)
        return [self._map(states[layer], grid, order) for layer in self.layers]

    def _tokens(self, images: Tensor, grid: tuple[int, int], order: Tensor | None) -> Tensor:
        """Return the embeddings, (B, T, D): class token and patches, or patches alone in the order of their windows."""
        no_mask = torch.zeros(len(images), grid[0] * grid[1], dtype=torch.bool, device=images.device)
        pieces = self.vision_embed(images, no_mask)
        if order is not None:
            return (pieces.patches + pieces.positions[1:])[:, order]
        cls_token = pieces.cls_token.expand(len(images), 1, -1)
        return torch.cat([cls_token, pieces.patches], dim=1) + pieces.positions

    def _states(self, tokens: Tensor, grid: tuple[int, int], dtype: torch.dtype | None) -> dict[int, Tensor]:
        """Return the residual stream after each block of `layers`, (B, T, D), by its number.

        dtype: that of autocast, None without.
        """
        num_images, num_tokens, _ = tokens.shape
        backend = choose_backend(self.kernels, tokens.device)
        whole = _layout((num_tokens,) * num_images, tokens.device)
        windowed = whole
        if self.windows is not None:
            windowed = _layout(window_lengths(grid, self.windows.side) * num_images, tokens.device)
        scales = self._drop_path_scales(tokens)
        x, branch = tokens.flatten(0, 1), cast(Branch | None, None)
        states = {}
        for number, block in enumerate(cast(Sequence[MultiwayBlock], self.blocks), start=1):
            is_global = self.global_blocks is None or number in self.global_blocks
            layout = whole if is_global else windowed
            mode = self.checkpointing.mode_of(number - 1) if torch.is_grad_enabled() else "none"
            scale = None if scales is None else scales[number - 1]
            x, branch = call_block(block, mode, x, branch, layout, backend, scale, dtype=dtype)
            if number in self.layers:
                states[number] = (x if branch is None else add_branch(x, branch)).view(tokens.shape)
        return states

    def _drop_path_scales(self, tokens: Tensor) -> Tensor | None:
        """Return the factor of each branch of each row, (blocks, 2, N) float32; None without stochastic depth."""
        if not self.training or not self.drop_path_rate:
            return None
        num_images, num_tokens, _ = tokens.shape
        depth = len(self.blocks)
        rates = torch.linspace(0, self.drop_path_rate, depth, device=tokens.device)[:, None, None]
        is_kept = torch.rand(depth, 2, num_images, device=tokens.device) >= rates
        return (is_kept / (1 - rates)).repeat_interleave(num_tokens, dim=2)

    def _map(self, states: Tensor, grid: tuple[int, int], order: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, D, h, w)"""
        patches = states[:, 1:] if order is None else states[:, order.argsort()]
        return patches.transpose(1, 2).unflatten(2, grid)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the type in which torch.autocast computes on a device, None if it is not on."""
    kind = device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on else None


def padded(images: Tensor, divisor: int) -> Tensor:
    """Return images with zeros, the mean color, at the bottom and on the right, so that `divisor` divides their sides.

    images: (B, 3, H, W), normalised. Raises ValueError for another shape.
    """
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images have the shape {tuple(images.shape)}; give (images, 3, height, width)")
    height, width = images.shape[2:]
    return pad(images, (0, -width % divisor, 0, -height % divisor))


def window_order(grid: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """Return the patches of a grid by window, (h * w,) int64: windows and the patches in each in row-major order."""
    numbers = torch.arange(grid[0] * grid[1], device=device).view(grid)
    return torch.cat([window.flatten() for rows in numbers.split(side) for window in rows.split(side, dim=1)])


def window_lengths(grid: tuple[int, int], side: int) -> tuple[int, ...]:
    """Return the number of patches of each window; those at the bottom and on the right may be smaller."""
    down, across = ([min(side, length - start) for start in range(0, length, side)] for length in grid)
    return tuple(rows * columns for rows in down for columns in across)


def _layout(lengths: tuple[int, ...], device: torch.device) -> PackedLayout:
    """Return a layout of image rows alone, in sequences that each attend to themselves."""
    no_texts = unpadded_texts(torch.zeros(0, 1, dtype=torch.bool, device=device), ())
    ends = torch.tensor((0, *lengths)).cumsum(0).int().to(device)
    return replace(packed_layout(0, 0, no_texts, no_texts), images=Sequences(lengths, ends))


def _sees_images(name: str, has_class_token: bool) -> bool:
    """Return whether images pass through a parameter of DenseBackbone; the vectors of a block are one for all."""
    if name.endswith((NAME, "pos_embed")) or ".patch_embed." in name:
        return True
    if name.endswith("cls_token"):
        return has_class_token
    return ".shared." in name or ".vision." in name


def _check_blocks(what: str, numbers: Sequence[int], depth: int) -> None:
    """Raise ValueError unless there are numbers, and all are those of blocks."""
    wrong = [number for number in numbers if not 1 <= number <= depth]
    if wrong:
        raise ValueError(f"{what} {wrong[0]} is not a block of this network; give numbers from 1 to {depth}")
    if not numbers:
        raise ValueError(f"no {what} is given; give numbers from 1 to {depth}")
