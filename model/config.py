"""Sizes of a Multiway Transformer."""

from dataclasses import dataclass
from typing import Literal

from settings.ranges import Depth, Deviation, PartBelowOne, Side, Size, SizeOrZero, TextLength, check_ranges


@dataclass(frozen=True)
class MultiwayConfig:
    """Sizes and variants of the network. The defaults are BEiT-3 base with shared attention."""

    dim: Size = 768
    """Width of a token."""
    depth: Depth = 12
    """Number of blocks."""
    num_heads: Size = 12
    """Attention heads; must divide dim."""
    ffn_dim: Size = 3072
    """Hidden width of an expert."""
    num_vl_layers: SizeOrZero = 0
    """Top blocks with a vision-language expert for image-text pairs (paper giant 3, released models 0)."""
    attention: Literal["shared", "decoupled"] = "shared"
    """shared: one for all modalities (the paper). decoupled: projections and norms per modality (released models)."""
    image_size: Side = 224
    """Side of the square input image in pixels."""
    patch_size: Side = 16
    """Side of a patch in pixels; must divide image_size."""
    vocab_size: Size = 64010
    """Rows of the text embedding and of the masked-word head (BEiT-3: 64002 ids and 8 spare rows)."""
    num_visual_tokens: Size = 8192
    """Size of the visual tokenizer's codebook: classes of the masked-image head."""
    max_text_length: TextLength = 1022
    """Longest text in tokens, specials included."""
    drop_path_rate: PartBelowOne = 0.0
    """Stochastic depth of the last block; grows linearly from 0 at the first."""
    init_std: Deviation = 0.02
    """Initial standard deviation of matrices before truncation at one standard deviation (BEiT: 0.02)."""
    embed_init_std: Deviation = 0.02
    """The same for word embeddings, positions, class and mask token."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}; choose another num_heads")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size {self.patch_size} must divide image_size {self.image_size}; choose another image_size"
            )
        if self.num_vl_layers > self.depth:
            raise ValueError(f"num_vl_layers {self.num_vl_layers} must not exceed depth {self.depth}; lower it")

    @property
    def grid_size(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid_size**2

    @property
    def num_image_tokens(self) -> int:
        """Patches and the class token."""
        return self.num_patches + 1

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads
