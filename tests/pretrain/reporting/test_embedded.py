"""Pictures within a page."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.reporting.embedded import cut, data_uri, joined, stacked


def pixels_of(uri: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize(("side", "kind"), [(48, "png"), (224, "jpeg")])
def test_small_pictures_are_exact_and_large_ones_small(side: int, kind: str) -> None:
    ramp = torch.arange(side).expand(3, side, side).to(torch.uint8)
    uri = data_uri(ramp)
    assert uri.startswith(f"data:image/{kind};base64,")
    assert np.abs(pixels_of(uri).astype(int) - ramp.permute(1, 2, 0).numpy()).max() <= (0 if kind == "png" else 12)
    assert data_uri(ramp, is_exact=True).startswith("data:image/png")


def test_patches_are_cut_row_by_row_and_joined_again() -> None:
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    patches = cut(images, 8)
    assert patches.shape == (2, 9, 3, 8, 8) and torch.equal(patches[1, 5], images[1, :, 8:16, 16:24])
    assert torch.equal(joined(patches[0]), images[0])
    assert torch.equal(stacked(patches[:, :2]), torch.cat([images[:, :, :8, :16][0], images[:, :, :8, :16][1]], dim=1))
