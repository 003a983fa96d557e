"""BEiT v2's visual tokenizer (VQ-KD): patches to codes, trained to reconstruct a teacher's features.

Parameter names are those of the published files; pretrain/formats/vqkd.py describes the rest of those files.

Source: BEiT v2 (arXiv 2208.06366) and unilm/beit2/modeling_vqkd.py.
Shapes: B images, G x G patches (or H/p x W/p for other views), D dim, d code dim, E teacher dim.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cosine_similarity,
    interpolate,
    mse_loss,
    normalize,
    scaled_dot_product_attention,
    unfold,
)

from model.config import VisualTokenizerConfig
from model.quantizer import Codebook

NORM_EPS = 1e-6


class VisualTokenizer(nn.Module):
    """Images to codes of a VQ-KD codebook. Takes raw pixels in [0, 1], float32.

    The original guesses the range of the pixels from the maximum of the batch, so that a dark image's codes depend on
    the images beside it; this one does not.
    """

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__()
        self.config = config
        dim, heads, grid = config.dim, config.num_heads, config.grid_size
        self.encoder = PatchTransformer(3, config.patch_size, dim, heads, config.encoder_depth, grid)
        self.encode_task_layer = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, config.code_dim))
        self.codebook = Codebook(config.num_codes, config.code_dim)
        self.decoder = PatchTransformer(config.code_dim, 1, dim, heads, config.decoder_depth, grid)
        self.decode_task_layer = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, config.teacher_dim))

    def features(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the features before quantisation, (B, 3, H, W) in [0, 1] -> (B, G * G, d) float32.

        dtype: of the encoder's matrix products. The task layer always computes in float32: rounding of the features
        themselves would change the nearest code.
        """
        with _autocast(pixels.device, dtype):
            patches = self.encoder(pixels * 2 - 1)
        with _autocast(pixels.device, torch.float32):
            return self.encode_task_layer(patches.float())

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the codes in row-major order, (B, 3, H, W) in [0, 1] -> (B, G * G). No collective, no change of
        state."""
        features = self.features(pixels, dtype)
        return self.codebook(features.flatten(0, 1)).view(features.shape[:2])

    def forward(
        self, pixels: Tensor, teacher: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean cosine similarity of reconstruction and teacher, the commitment loss, both scalars, and the
        features (B, G * G, d), detached, from which the codebook learns.

        pixels: (B, 3, H, W) in [0, 1]; teacher: the teacher's features (B, G * G, E). The loss of VQ-KD is
        1 - similarity + commitment loss.
        """
        grid = (pixels.shape[2] // self.config.patch_size, pixels.shape[3] // self.config.patch_size)
        features = self.features(pixels, dtype)
        ids = self.codebook(features.detach().flatten(0, 1)).view(features.shape[:2])
        # cosine distance: features and codes are compared, decoded and pulled together on the unit sphere
        unit_features, codes = normalize(features, dim=-1), self.codebook.lookup(ids)
        # straight-through: the value is the code, the gradient that of the features, as argmin has none
        quantized = unit_features + (codes - unit_features).detach()
        with _autocast(pixels.device, dtype):
            reconstruction = self.decode_task_layer(self.decoder(quantized.transpose(1, 2).unflatten(2, grid)))
        similarity = cosine_similarity(reconstruction.float(), teacher, dim=-1).mean()
        return similarity, mse_loss(unit_features, codes), features.detach()


class PatchTransformer(nn.Module):
    """A vision transformer over a grid: the encoder on pixels, the decoder on codes. Returns patch tokens only."""

    def __init__(self, in_channels: int, patch_size: int, dim: int, num_heads: int, depth: int, grid_size: int):
        super().__init__()
        self.grid_size = grid_size
        self.patch_embed = PatchEmbed(in_channels, patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_size**2 + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, G * G, D)"""
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        patches = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self._positions(grid)
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x[:, 1:])  # the class token takes part in attention only

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings for a grid, (1, H' * W' + 1, D).

        The 0.1 is the original's guard against rounding; the codes of published tokenizers at other sizes depend on it.
        """
        if grid == (self.grid_size, self.grid_size):
            return self.pos_embed
        table = self.pos_embed[:, 1:].unflatten(1, (self.grid_size, self.grid_size)).permute(0, 3, 1, 2)
        scales = [(side + 0.1) / self.grid_size for side in grid]
        table = interpolate(table.float(), scale_factor=scales, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbed(nn.Module):
    """A linear projection of each patch."""

    def __init__(self, in_channels: int, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


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
        # a bias of the keys adds the same to all scores of a query, which softmax ignores
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = self.qkv(x)
        q, k, v = (qkv + bias.to(qkv.dtype)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The feed-forward part of a block."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


@torch.no_grad()
def init_visual_tokenizer(tokenizer: VisualTokenizer, init_std: float, seed: int) -> None:
    """Fill every parameter in place by BEiT v2's scheme, from the seed alone.

    Matrices, positions and class token: normal(init_std), attn.proj and fc2 of block l divided by sqrt(2 l) (see
    model/initialization.py); patch projections and their biases: uniform within 1 / sqrt(fan in); other biases 0;
    norms 1 and 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tokenizer.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    for name, module in tokenizer.named_modules():
        if isinstance(module, nn.Linear):
            # truncated at +-2, torch's default, which no draw reaches: in effect a normal distribution
            nn.init.trunc_normal_(module.weight, std=init_std, generator=generator)
            if name.endswith(("attn.proj", "mlp.fc2")):
                module.weight.div_(math.sqrt(2 * (int(name.split(".")[2]) + 1)))
        elif isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            module.weight.uniform_(-bound, bound, generator=generator)
            assert module.bias is not None
            module.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, PatchTransformer):
            nn.init.trunc_normal_(module.pos_embed, std=init_std, generator=generator)
            nn.init.trunc_normal_(module.cls_token, std=init_std, generator=generator)


def patch_pixels(pixels: Tensor, patch_size: int) -> Tensor:
    """Return each patch's pixels scaled to [-1, 1], (B, 3, H, W) in [0, 1] -> (B, G * G, 3 * patch_size ** 2).

    The teacher that needs no download. Patches are in row-major order.
    """
    return unfold(pixels * 2 - 1, kernel_size=patch_size, stride=patch_size).transpose(1, 2)


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context with matrix products in dtype; for float32, one without autocast."""
    is_on = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if is_on else torch.bfloat16, enabled=is_on)
