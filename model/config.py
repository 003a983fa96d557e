"""Settings of the networks: sizes, activation checkpointing, who computes.

Nothing here imports torch, so that a command line is parsed and explained without the seconds that torch takes.
"""

from dataclasses import dataclass
from typing import Literal

from model.ranges import Count, Depth, Deviation, PartBelowOne, Side, Size, SizeOrZero, TextLength, check_ranges

Use = Literal["image", "text", "pair"]
USES: tuple[Use, ...] = ("image", "text", "pair")
"""Kinds of samples, each of which passes through experts of its own."""
OBJECTIVES = ("mim", "mlm", "mvlm_image", "mvlm_text")
"""Masked image modeling on images, masked language modeling on texts, and both parts of the masked
vision-language modeling on pairs; the order of every loss vector."""
KernelChoice = Literal["auto", "reference", "compile", "triton", "apex"]
"""Implementation of the fused operations that a user asks for; see model/kernels/backend.py."""
CheckpointingMode = Literal["none", "selective", "full"]


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


@dataclass(frozen=True)
class Checkpointing:
    """What a run keeps for backward. No mode changes what is computed. See model/checkpointing.py."""

    mode: CheckpointingMode = "none"
    """none: everything. selective: results of matrix products and attention. full: the input of a block."""
    every: Count = 1
    """Checkpoint one block in `every`; of the others everything is kept."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def mode_of(self, block: int) -> CheckpointingMode:
        """Return the mode of a block, counted from 0."""
        return self.mode if block % self.every == 0 else "none"


KEEP_EVERYTHING = Checkpointing()


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """Sizes of the tokenizer. The defaults are the published vqkd_encoder_base_decoder_3x768x12_clip."""

    image_size: Side = 224
    """Side of the square input in pixels; positions are interpolated for others."""
    patch_size: Side = 16
    """Side of a patch in pixels."""
    dim: Size = 768
    """Width of encoder and decoder."""
    num_heads: Size = 12
    """Attention heads; must divide dim."""
    encoder_depth: Depth = 12
    """Blocks of the encoder."""
    decoder_depth: Depth = 3
    """Blocks of the decoder, used in training only."""
    num_codes: Size = 8192
    """Size of the codebook."""
    code_dim: Size = 32
    """Dimensions of a code."""
    teacher_dim: Size = 512
    """Dimensions of the teacher's features (CLIP ViT-B/16: 512)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} must divide image_size {self.image_size}")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}")

    @property
    def grid_size(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size
