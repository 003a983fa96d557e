"""ViTDet's simple feature pyramid: four maps of strides 4, 8, 16 and 32 from the last map of a plain transformer.

    stride 4    deconvolution, norm, GELU, deconvolution
    stride 8    deconvolution
    stride 16   -
    stride 32   max pooling

each followed by a convolution of 1 x 1 and one of 3 x 3, both with a norm. With patches of another size than 16 px the
strides are 1/4, 1/2, 1 and 2 patches.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv 2203.16527), section 3, as
in detectron2's SimpleFeaturePyramid, whose norms (over channels) and biases these are.
Shapes: B images, H, W their sides in pixels; h, w patches down and across; D dim; C channels of the pyramid.
"""

from torch import Tensor, nn

from model.dense_features import DenseBackbone, padded

LEVELS = ("p2", "p3", "p4", "p5")
"""Names of the maps in detectron2: the stride is 2 to this power."""


class ChannelNorm(nn.LayerNorm):
    """A LayerNorm over the channels of a map."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)"""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Four maps from one."""

    def __init__(self, dim: int, out_channels: int = 256):
        """dim: channels of the map, a multiple of 4; out_channels: of the pyramid. Raises ValueError otherwise."""
        super().__init__()
        if dim % 4:
            raise ValueError(f"dim {dim} must be a multiple of 4, as the map of stride 4 has a quarter of it")
        half, quarter = dim // 2, dim // 4
        self.p2 = nn.Sequential(_doubled(dim, half), ChannelNorm(half), nn.GELU(), _doubled(half, quarter),
                                *_smoothed(quarter, out_channels))  # fmt: skip
        self.p3 = nn.Sequential(_doubled(dim, half), *_smoothed(half, out_channels))
        self.p4 = nn.Sequential(*_smoothed(dim, out_channels))
        self.p5 = nn.Sequential(nn.MaxPool2d(2), *_smoothed(dim, out_channels))

    def forward(self, patches: Tensor) -> dict[str, Tensor]:
        """(B, D, h, w), h and w even -> the maps by LEVELS, (B, C, 4 h, 4 w) to (B, C, h / 2, w / 2)."""
        return {level: getattr(self, level)(patches) for level in LEVELS}


class PyramidBackbone(nn.Module):
    """A backbone and the pyramid of its last layer, as a detector takes them: images in, maps by name out."""

    def __init__(self, backbone: DenseBackbone, out_channels: int = 256):
        """Raises ValueError as SimpleFeaturePyramid does."""
        super().__init__()
        self.backbone = backbone
        self.size_divisor = 2 * backbone.patch_size
        """Images are padded to multiples of this, because pooling halves the map of patches."""
        self.pyramid = SimpleFeaturePyramid(backbone.dim, out_channels)
        self.out_channels = out_channels
        """Channels of every map, under the name by which torchvision's detectors ask for it."""
        self.strides = dict(zip(LEVELS, (backbone.patch_size * factor for factor in (0.25, 0.5, 1, 2)), strict=True))
        """Pixels per place of each map."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps by LEVELS of images (B, 3, H, W), normalised as the network was trained."""
        maps: dict[str, Tensor] = self.pyramid(self.backbone(padded(images, self.size_divisor))[-1])
        return maps


def _doubled(dim: int, out_dim: int) -> nn.ConvTranspose2d:
    """Return a deconvolution that doubles the sides of a map."""
    return nn.ConvTranspose2d(dim, out_dim, kernel_size=2, stride=2)


def _smoothed(dim: int, channels: int) -> list[nn.Module]:
    """Return the convolutions at the end of every level."""
    return [
        nn.Conv2d(dim, channels, kernel_size=1, bias=False),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        ChannelNorm(channels),
    ]
