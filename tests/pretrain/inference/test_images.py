"""Images of every form as pixels. CPU, a second."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_pipeline.images.transform import ImageTransform
from pretrain.formats.preprocessing import Preprocessing
from pretrain.inference.images import decoded, normalized, pixels_of

SIZE = 32
PREPROCESSING = Preprocessing(SIZE)


def picture(mode: str = "RGB", size: tuple[int, int] = (50, 40)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def levels(pixels: Tensor) -> Tensor:
    return pixels.float()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_an_open_image_a_file_and_its_bytes_give_the_pixels_of_training(mode: str, tmp_path: Path) -> None:
    image = picture("L").point(lambda level: level * 200, "I").convert("I;16") if mode == "I;16" else picture(mode)
    encoded, path = png(image), tmp_path / "a.png"
    path.write_bytes(encoded)
    expected = torch.from_numpy(ImageTransform(SIZE, 1, 0, False, 10**6).center(encoded))
    found = decoded([Image.open(io.BytesIO(encoded)), path, str(path), encoded], PREPROCESSING)
    assert found.shape == (4, 3, SIZE, SIZE) and found.dtype == torch.uint8
    assert all(torch.equal(row, expected) for row in found)


@pytest.mark.parametrize("form", ["gif", "bmp", "tiff"])
def test_a_file_in_a_format_that_shards_do_not_hold_is_read_as_write_shards_stores_it(form: str) -> None:
    image = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, form)
    found = levels(decoded([buffer.getvalue(), png(image)], PREPROCESSING))
    assert (found[0] - found[1]).abs().max() <= 8


def test_cmyk_is_inverted_only_if_pillow_has_inverted_it(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (50, 40), (0, 255, 255, 0))
    tiff, jpeg = tmp_path / "a.tif", tmp_path / "a.jpg"
    ink.save(tiff)
    ink.save(jpeg, quality=95)
    found = decoded([ink, Image.open(tiff), tiff, Image.open(jpeg), jpeg], PREPROCESSING)
    red = torch.tensor([255, 0, 0]).view(3, 1, 1)
    assert (found.int() - red).abs().max() <= 3


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_32_bits_are_refused(mode: str) -> None:
    buffer = io.BytesIO()
    image = Image.new(mode, (50, 40), 1)
    image.save(buffer, "tiff")
    for given in (image, buffer.getvalue()):
        with pytest.raises(ValueError, match="image 1: image has pixels of 32 bits, whose black and white are not"):
            decoded([picture(), given], PREPROCESSING)


def test_images_of_every_form_are_cropped_if_the_weights_were_trained_so(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    image, tensor = Image.fromarray(wide), torch.from_numpy(wide).permute(2, 0, 1)
    for turned, pixels in ((image, tensor), (image.transpose(Image.Transpose.ROTATE_90), tensor.mT)):
        cropping = Preprocessing(SIZE, crop_mode="center")
        found = [decoded([turned, png(turned)], cropping), pixels_of(pixels, cropping)]
        assert all(isinstance(each, Tensor) and bool((each == 255).all()) for each in found)
        assert (decoded([turned], PREPROCESSING) == 0).any()


def test_an_open_image_is_turned_upright_and_left_as_it_is(tmp_path: Path) -> None:
    image, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif, quality=95)
    opened = Image.open(path)
    from_file, from_open = levels(decoded([path, opened], PREPROCESSING))
    assert (from_file - from_open).abs().max() <= 2 and opened.size == (50, 40)


def test_pixels_are_normalized_as_the_weights_were_trained() -> None:
    preprocessing = Preprocessing(SIZE, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    pixels = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    found = normalized(pixels, preprocessing, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(found[:, 1], (pixels[:, 1] / 255 - 0.2) / 0.25)
    torch.testing.assert_close(normalized(pixels / 255, preprocessing, torch.device("cpu"), torch.float32), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_floating_type_are_scaled(dtype: torch.dtype) -> None:
    found = pixels_of(torch.full((3, 5, 7), 0.5, dtype=dtype), Preprocessing(16))
    assert isinstance(found, Tensor) and found.shape == (1, 3, 16, 16)
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


def test_tensors_of_other_sizes_are_scaled_as_files_are() -> None:
    image = picture()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    scaled = pixels_of(pixels, PREPROCESSING)
    assert isinstance(scaled, Tensor)
    assert (levels(scaled[0]) - levels(decoded([png(image)], PREPROCESSING)[0])).abs().max() <= 1
    floating = pixels_of(pixels[None].float() / 255, PREPROCESSING)
    assert isinstance(floating, Tensor) and (levels(scaled) / 255 - floating).abs().max() < 4 / 255


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, SIZE, SIZE, 3), "channels first"),
        (torch.zeros(SIZE, SIZE), "channels first"),
        (torch.zeros(1, 4, SIZE, SIZE), "channels first"),
        (torch.full((1, 3, SIZE, SIZE), 200.0), "from 200 to 200; give floating numbers from 0 to 1"),
        (torch.full((1, 3, SIZE, SIZE), -1.0), "they are normalized here"),
        (torch.full((1, 3, SIZE, SIZE), torch.nan), "pixels are from nan"),
        (torch.zeros(1, 3, SIZE, SIZE, dtype=torch.int64), "pixels are torch.int64"),
    ],
    ids=["channels last", "gray", "alpha", "bytes as floats", "normalized", "nan", "int64"],
)
def test_a_tensor_of_another_shape_or_range_is_refused(pixels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels_of(pixels, PREPROCESSING)


def test_an_image_that_cannot_be_read_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 1: image cannot be decoded"):
        decoded([picture(), b"\xff\xd8\xff nothing"], PREPROCESSING)
    with pytest.raises(ValueError, match="image 0: image file does not exist"):
        decoded([tmp_path / "nowhere.png"], PREPROCESSING)


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    huge = Image.new("1", (60_000, 2_000))
    with pytest.raises(ValueError, match="image 0: image exceeds max_image_pixels"):
        decoded([png(huge)], PREPROCESSING)
    with pytest.raises(ValueError, match="image 0: image exceeds max_image_pixels"):
        decoded([huge], PREPROCESSING)
