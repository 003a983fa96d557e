"""BEiT v2's visual tokenizer (VQ-KD): patches to codes, trained to reconstruct a teacher's features.

Source: BEiT v2 (arXiv 2208.06366) and unilm/beit2/modeling_vqkd.py.
Shapes: B images, G patches along a side, S tokens (G * G + 1, class token first), D dim, d code dim, E teacher dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.quantizer import Codebook

NORM_EPS = 1e-6


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """Sizes of the tokenizer. The defaults are the published vqkd_encoder_base_decoder_3x768x12_clip."""

    image_size: int = 224
    """Side of the square input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    dim: int = 768
    """Width of encoder and decoder."""
    num_heads: int = 12
    """Attention heads; must divide dim."""
    encoder_depth: int = 12
    """Blocks of the encoder."""
    decoder_depth: int = 3
    """Blocks of the decoder, used in training only."""
    num_codes: int = 8192
    """Size of the codebook."""
    code_dim: int = 32
    """Dimensions of a code."""
    teacher_dim: int = 512
    """Dimensions of the teacher's features (CLIP ViT-B/16: 512)."""
    ema_decay: float = 0.99
    """Decay of the codebook's moving averages."""
    revival_threshold: float = 0.1
    """A code used by less than this part of an even share of the features is revived. Ours; 0 switches it off."""
    init_std: float = 0.02
    """Initial standard deviation of matrices."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} must divide image_size {self.image_size}")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}")

    @property
    def grid_size(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size


class Attention(nn.Module):
    """Multi-head self-attention without a key bias."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)"""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = (self.qkv(x) + bias).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, S, K)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchTransformer(nn.Module):
    """A vision transformer over a grid: the encoder on pixels, the decoder on codes. Gives patch tokens only."""

    def __init__(self, in_channels: int, patch_size: int, dim: int, num_heads: int, depth: int, grid_size: int):
        super().__init__()
        self.patch_embed = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_size**2 + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, G * patch_size, G * patch_size) -> (B, G * G, D)"""
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x[:, 1:])


class VisualTokenizer(nn.Module):
    """Images to codes of a VQ-KD codebook. Raw pixels in [0, 1], float32."""

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__()
        self.config = config
        dim, heads, grid = config.dim, config.num_heads, config.grid_size
        self.encoder = PatchTransformer(3, config.patch_size, dim, heads, config.encoder_depth, grid)
        self.to_code = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, config.code_dim))
        self.codebook = Codebook(config.num_codes, config.code_dim, config.ema_decay, config.revival_threshold)
        self.decoder = PatchTransformer(config.code_dim, 1, dim, heads, config.decoder_depth, grid)
        self.to_teacher = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, config.teacher_dim))
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=config.init_std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, G * G, d) before quantisation."""
        return self.to_code(self.encoder(pixels * 2 - 1))

    @torch.no_grad()
    def tokenize(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, G * G) codes in row-major order. Changes no state."""
        features = self.features(pixels)
        return self.codebook(features.flatten(0, 1)).view(features.shape[:2])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass from `features`, (B, G * G, d).

        Returns the codes (B, G * G), the reconstruction of the teacher's features (B, G * G, E) and the commitment
        loss. Gradients pass the quantiser straight through.
        """
        ids = self.codebook(features.flatten(0, 1)).view(features.shape[:2])
        features = nn.functional.normalize(features, dim=-1)
        codes = self.codebook.lookup(ids)
        commitment_loss = nn.functional.mse_loss(features, codes)
        straight_through = features + (codes - features).detach()
        grid = straight_through.transpose(1, 2).unflatten(2, (self.config.grid_size, self.config.grid_size))
        return ids, self.to_teacher(self.decoder(grid)), commitment_loss


def patch_pixels(pixels: Tensor, patch_size: int) -> Tensor:
    """The teacher that needs no download: a patch's pixels, normalised to [-1, 1].

    (B, 3, H, W) in [0, 1] -> (B, G * G, 3 * patch_size ** 2), row-major patches.
    """
    return nn.functional.unfold(pixels * 2 - 1, kernel_size=patch_size, stride=patch_size).transpose(1, 2)
