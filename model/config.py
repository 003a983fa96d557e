"""Sizes of a Multiway Transformer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MultiwayConfig:
    """Sizes and variants of the network. The defaults are BEiT-3 base with shared attention."""

    dim: int = 768
    """Width of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads; must divide dim."""
    ffn_dim: int = 3072
    """Hidden width of an expert."""
    num_vl_layers: int = 0
    """Top blocks with a vision-language expert for image-text pairs (paper giant 3, released models 0)."""
    attention: Literal["shared", "decoupled"] = "shared"
    """shared: one for all modalities (the paper). decoupled: projections and norms per modality (released models)."""
    image_size: int = 224
    """Side of the square input image in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels; must divide image_size."""
    vocab_size: int = 64010
    """Rows of the text embedding and of the masked-word head (BEiT-3: 64002 ids and 8 spare rows)."""
    num_visual_tokens: int = 8192
    """Size of the visual tokenizer's codebook: classes of the masked-image head."""
    max_text_length: int = 1022
    """Longest text in tokens, specials included."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last block; grows linearly from 0 at the first."""
    init_std: float = 0.02
    """Initial standard deviation of matrices before truncation at one standard deviation (BEiT: 0.02)."""
    embed_init_std: float = 0.02
    """The same for word embeddings, positions, class and mask token."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}; choose another num_heads")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size {self.patch_size} must divide image_size {self.image_size}; choose another image_size"
            )
        if not 0 <= self.num_vl_layers <= self.depth:
            raise ValueError(f"num_vl_layers {self.num_vl_layers} must lie in 0..depth ({self.depth})")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} must lie in [0, 1)")

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
