"""Settings of the networks: sizes, kernels, activation checkpointing.

Without torch, so that a command line that is built from them answers at once.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from model.ranges import Count, Depth, Deviation, PartBelowOne, Side, Size, SizeOrZero, TextLength, check_ranges

KernelChoice = Literal["auto", "reference", "compile", "triton", "apex"]
"""Implementations of the operations in model/kernels that a user may choose."""
FlashAttentionChoice = Literal["auto", "2", "3"]
"""Versions of FlashAttention that a user may choose on a GPU: see model/flash_attention.py."""
CheckpointingMode = Literal["none", "selective", "full"]
Use = Literal["image", "text", "pair"]
"""Kind of sample that a network is used on."""
USES: tuple[Use, ...] = ("image", "text", "pair")


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
    """Number of top blocks with a vision-language expert for image-text pairs (paper giant 3, released models 0)."""
    attention: Literal["shared", "decoupled"] = "shared"
    """shared: one attention for all modalities (the paper). decoupled: projections and norms per modality (released
    models)."""
    image_size: Side = 224
    """Side of the square input image in pixels."""
    patch_size: Side = 16
    """Side of a patch in pixels; must divide image_size."""
    vocab_size: Size = 64010
    """Rows of the text embedding and of the masked-word head (BEiT-3: 64002 ids and 8 spare rows)."""
    num_visual_tokens: Size = 8192
    """Size of the visual tokenizer's codebook: classes of the masked-image head."""
    max_text_length: TextLength = 1022
    """Longest text in tokens, special tokens included."""
    drop_path_rate: PartBelowOne = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first."""
    init_std: Deviation = 0.02
    """Initial standard deviation of matrices before truncation at one standard deviation (BEiT: 0.02)."""
    embed_init_std: Deviation = 0.02
    """Initial standard deviation of word embeddings, positions, class and mask token, truncated likewise."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_divides(self, "num_heads", "dim", remedy="choose another num_heads")
        _check_divides(self, "patch_size", "image_size", remedy="choose another patch_size or image_size")
        if self.num_vl_layers > self.depth:
            raise ValueError(f"num_vl_layers {self.num_vl_layers} must not exceed depth {self.depth}; lower it")

    @property
    def grid_size(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid_size**2

    @property
    def num_image_tokens(self) -> int:
        """Patches and the class token."""
        return self.num_patches + 1


@dataclass(frozen=True)
class DualHeads:
    """Parameters that a DualEncoder may have beside its encoder, its two projections and logit_scale."""

    logit_bias: bool = False
    """Whether it has a logit_bias, which the sigmoid loss trains."""
    masked_data: bool = False
    """Whether it has the two heads of masked data modeling, which then goes on beside the contrastive loss."""


NO_FURTHER_HEADS = DualHeads()

TaskName = Literal["vqa", "nlvr2", "caption", "classify"]
"""Name of a task that a network is finetuned for, beside retrieval, which is the dual encoder's."""


@dataclass(frozen=True)
class VqaHead:
    """Head of a VqaNetwork: a question about an image is answered by a choice from a list of answers."""

    num_answers: Size = 3129
    """Length of the list of answers (VQAv2: 3,129)."""

    TASK: ClassVar[TaskName] = "vqa"
    FINAL_NORM: ClassVar[bool] = False
    """Whether the encoder ends with a norm; without one the head has a norm of its own."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Nlvr2Head:
    """Head of an Nlvr2Network: whether a sentence is true of two images."""

    TASK: ClassVar[TaskName] = "nlvr2"
    FINAL_NORM: ClassVar[bool] = True


@dataclass(frozen=True)
class CaptionHead:
    """Head of a CaptionNetwork: words of a caption from its image and the words before them."""

    TASK: ClassVar[TaskName] = "caption"
    FINAL_NORM: ClassVar[bool] = True


@dataclass(frozen=True)
class ClassHead:
    """Head of a ClassifyNetwork: the class of an image."""

    num_classes: Size = 1000
    """Number of classes (ImageNet-1K: 1,000)."""

    TASK: ClassVar[TaskName] = "classify"
    FINAL_NORM: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ranges(self)


TaskHead = VqaHead | Nlvr2Head | CaptionHead | ClassHead
TASK_HEADS: tuple[type[TaskHead], ...] = (VqaHead, Nlvr2Head, CaptionHead, ClassHead)
Heads = DualHeads | TaskHead
"""Everything that a network may have beside its encoder, but for the heads of pretraining."""


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """Sizes of the visual tokenizer. The defaults are the published vqkd_encoder_base_decoder_3x768x12_clip."""

    image_size: Side = 224
    """Side of the square input image in pixels; positions are interpolated for other sizes."""
    patch_size: Side = 16
    """Side of a patch in pixels; must divide image_size."""
    dim: Size = 768
    """Width of encoder and decoder."""
    num_heads: Size = 12
    """Attention heads; must divide dim."""
    encoder_depth: Depth = 12
    """Number of encoder blocks."""
    decoder_depth: Depth = 3
    """Number of decoder blocks; the decoder is used in training only."""
    num_codes: Size = 8192
    """Size of the codebook."""
    code_dim: Size = 32
    """Dimension of a code."""
    teacher_dim: Size = 512
    """Dimension of the teacher's features (CLIP ViT-B/16: 512)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_divides(self, "patch_size", "image_size", remedy="choose another patch_size or image_size")
        _check_divides(self, "num_heads", "dim", remedy="choose another num_heads")

    @property
    def grid_size(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class Checkpointing:
    """Activations that a run keeps for backward. No mode changes the result."""

    mode: CheckpointingMode = "none"
    """none: everything. selective: results of matrix products and attention. full: the input of a block."""
    every: Count = 1
    """Checkpoint one block in `every`, beginning with the first; the others keep everything."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def mode_of(self, block: int) -> CheckpointingMode:
        """Return the mode of a block; they are numbered from 0."""
        return self.mode if block % self.every == 0 else "none"


KEEP_EVERYTHING = Checkpointing()


def _check_divides(config: object, divisor: str, field: str, remedy: str) -> None:
    number, whole = getattr(config, divisor), getattr(config, field)
    if whole % number:
        raise ValueError(f"{divisor} {number} must divide {field} {whole}; {remedy}")
