"""Ids and pixels by the code that is copied for transformers, compared with ours. CPU, seconds."""

import io
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.images import decoding
from data_pipeline.images.transform import ImageTransform
from data_pipeline.samples.scenes import draw_samples
from data_pipeline.texts.sentencepiece_training import train_text_tokenizer
from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.formats.preprocessing import default_preprocessing
from pretrain.formats.transformers_folder import import_code, write_preprocessors
from pretrain.jobs.visual_tokens import network_view
from tests.support.tiny import CONFIG, tiny_model
from tests.support.tiny_run import TinyData
from tests.support.transformers_folders import write_folder

SCRIPTS = [
    "abc XYZ  ", "äöüßé", "中文字符。", "日本語カナ", "한국어", "العربية", "हिन्दी", "עברית", "ไทย",
    "🙂🚀👩\u200d👩\u200d👧",
    "\t\n\r\x00\x01\x7f", "\u200b\u200d\ufeff\u2028\u00a0\u3000", "▁_", "①²\ufb01",
    "e\u0301\u0308n\u0303", "<>s/masknupd",
]  # fmt: skip
SPECIALS = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
LONG = ["", " ", "  many   spaces ", "word " * 3000, "x" * 5000, "\n", "▁", "a<s>b</s> <mask> <unk><pad>"]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def folder(request: pytest.FixtureRequest, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a text tokenizer of each kind. Read only."""
    path: Path = tmp_path_factory.mktemp("processing")
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    if request.param == "unigram":
        corpus = ["ein roter Kreis", "一个红色的圆圈", "красный круг"] * 50
        corpus += [sample.text or "" for sample in draw_samples("text", 500)]
        tokenizer = train_text_tokenizer(corpus, path / "unigram.spm", 80, "unigram").path
    write_folder(tiny_model(vocab_size=120), path, tokenizer)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextTokenizer:
    return TextTokenizer(folder / "text_tokenizer.spm")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return import_code(folder, "processing_beit3").Beit3Tokenizer.from_pretrained(folder)


def texts() -> list[str]:
    """Return random mixtures of scripts, control characters and spaces, and long texts."""
    draw = random.Random(0)
    mixed = ["".join(draw.choice(draw.choice(SCRIPTS)) for _ in range(draw.randrange(40))) for _ in range(500)]
    return [*SCRIPTS, *LONG, *mixed]


def test_ids_equal_ours_in_every_script(ours: TextTokenizer, theirs: Any) -> None:
    assert len(theirs) == theirs.vocab_size == ours.vocab_size
    assert (theirs.bos_token_id, theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2, 3)
    assert theirs.mask_token_id == ours.mask_id
    for text in texts():
        found = theirs(text, split_special_tokens=True)["input_ids"]
        assert found == [0, *ours.encode(text), 2], repr(text)
        assert theirs.decode(found, skip_special_tokens=True) == ours.decode(found), repr(text)


def test_special_tokens_in_a_text_are_read_as_in_other_tokenizers(ours: TextTokenizer, theirs: Any) -> None:
    assert theirs("a <mask> circle")["input_ids"] == [0, *ours.encode("a "), ours.mask_id, *ours.encode(" circle"), 2]
    vocabulary = theirs.get_vocab()
    assert sorted(vocabulary.values()) == list(range(ours.vocab_size))
    assert theirs.convert_ids_to_tokens([vocabulary[token] for token in SPECIALS]) == list(SPECIALS)
    assert theirs.convert_ids_to_tokens([ours.vocab_size + 5]) == ["<unk>"]  # a spare row of the network


def test_a_batch_is_padded_and_cut_as_ours(ours: TextTokenizer, theirs: Any) -> None:
    assert theirs.model_max_length == 10
    batch = ["a red circle", "", "many words " * 20]
    found = theirs(batch, padding="max_length", truncation=True)
    assert found["input_ids"] == [ours.encode_to_length(text, 10) for text in batch]
    assert [sum(mask) for mask in found["attention_mask"]] == [min(10, len(ours.encode(text)) + 2) for text in batch]
    mask = theirs.get_special_tokens_mask(ours.encode(batch[0]))
    assert mask == [1, *[0] * len(ours.encode(batch[0])), 1]


def test_a_saved_tokenizer_is_the_same(theirs: Any, folder: Path, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path)
    assert (tmp_path / "text_tokenizer.spm").read_bytes() == (folder / "text_tokenizer.spm").read_bytes()
    assert again("a <mask> circle")["input_ids"] == theirs("a <mask> circle")["input_ids"]
    assert again.model_max_length == 10


def images() -> dict[str, bytes]:
    """Return encoded images in every mode that shards hold, each larger than the network's."""
    noise = np.random.default_rng(0).integers(0, 256, (57, 83, 4), dtype=np.uint8)
    noise = np.asarray(Image.fromarray(noise).resize((83, 57), Image.Resampling.BOX))
    rgba = Image.fromarray(noise, "RGBA")
    gray = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    smooth = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    return {
        "rgb": encoded(rgba.convert("RGB"), "PNG"),
        "transparent": encoded(rgba, "PNG"),
        "palette": encoded(rgba.convert("RGB").quantize(16), "PNG"),
        "gray": encoded(rgba.convert("L"), "PNG"),
        "16 bits": encoded(gray, "PNG"),
        "turned": encoded(rgba.convert("RGB"), "PNG", exif=exif),
        "jpeg": encoded(rgba.convert("RGB").resize((40, 36)), "JPEG"),
        "cmyk": encoded(rgba.convert("CMYK").resize((40, 36)), "JPEG"),
        "damaged exif": encoded(rgba.convert("RGB").resize((40, 36)), "JPEG", exif=b"Exif\0\0garbage"),
        "large jpeg": encoded(smooth, "JPEG"),
    }


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", images())
def test_pixels_equal_those_of_held_out_images(name: str, folder: Path) -> None:
    content = images()[name]
    transform = ImageTransform(CONFIG.image_size, 1.0, 0.0, False, 10**6)
    expected = network_view(torch.from_numpy(transform.center(content))[None], CONFIG.image_size)
    processor = import_code(folder, "processing_beit3").Beit3ImageProcessor.from_pretrained(folder)
    found = processor(Image.open(io.BytesIO(content)))["pixel_values"]
    if name == "large jpeg":  # ours decodes it at a quarter of its size, as draft images; theirs is decoded already
        assert (found - expected).abs().max() <= 4 / 127.5
    else:
        assert torch.equal(found, expected)


def test_images_are_turned_by_the_table_of_training(folder: Path) -> None:
    assert import_code(folder, "processing_beit3").UPRIGHT == decoding.UPRIGHT


def test_open_images_of_other_modes_are_taken_as_ours_or_refused(folder: Path) -> None:
    processor = import_code(folder, "processing_beit3").Beit3ImageProcessor.from_pretrained(folder)
    transform = ImageTransform(CONFIG.image_size, 1.0, 0.0, False, 10**6)
    ink = Image.open(io.BytesIO(encoded(Image.new("CMYK", (40, 36), (0, 255, 255, 0)), "TIFF")))
    for image in (ink, ink.copy(), Image.new("YCbCr", (40, 36), (90, 80, 70)), Image.new("1", (40, 36), 1)):
        expected = network_view(torch.from_numpy(transform.center_of(image))[None], CONFIG.image_size)
        assert torch.equal(processor(image)["pixel_values"], expected)
    assert processor(ink)["pixel_values"][0, :, 0, 0].tolist() == pytest.approx([1, -1, -1], abs=0.02)
    for mode in ("F", "I"):
        with pytest.raises(ValueError, match="an image has pixels of 32 bits, whose black and white are not known"):
            processor(Image.new(mode, (40, 36)))


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_a_broken_image_is_refused_and_a_damaged_tag_beside_its_orientation_is_not(form: str, folder: Path) -> None:
    processor = import_code(folder, "processing_beit3").Beit3ImageProcessor.from_pretrained(folder)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (57, 83, 3), dtype=np.uint8))
    content = bytearray(encoded(noise, form, **({"compression": "tiff_lzw"} if form == "TIFF" else {})))
    middle = len(content) // 2
    broken = (
        bytes(content[:middle]) if form == "JPEG" else bytes([*content[:middle], *[255] * 60, *content[middle + 60 :]])
    )
    with pytest.raises((OSError, SyntaxError)):
        processor(Image.open(io.BytesIO(broken)))
    if form != "TIFF":
        # little endian, two entries: Orientation 6, and a copyright whose text lies outside of the data
        entries = struct.pack("<HHIHxx", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8298, 2, 900, 5000)
        exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
        turned = encoded(noise, form, exif=exif)
        transform = ImageTransform(CONFIG.image_size, 1.0, 0.0, False, 10**6)
        for image in (Image.open(io.BytesIO(turned)), Image.open(io.BytesIO(encoded(noise, form)))):
            expected = network_view(torch.from_numpy(transform.center_of(image))[None], CONFIG.image_size)
            assert torch.equal(processor(image)["pixel_values"], expected)
        upright = transform.center_of(Image.open(io.BytesIO(encoded(noise, form))))
        assert (transform.center_of(Image.open(io.BytesIO(turned))) != upright).any()


def test_the_center_is_cropped_if_the_settings_say_so_also_after_saving(folder: Path, tmp_path: Path) -> None:
    module = import_code(folder, "processing_beit3")
    wide = Image.new("RGB", (90, 30))
    wide.paste("white", (30, 0, 60, 30))
    cropping = replace(default_preprocessing(CONFIG), crop_mode="center")
    write_preprocessors(CONFIG, cropping, None, tmp_path)
    module.Beit3ImageProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    for place in (tmp_path, tmp_path / "again"):
        assert (module.Beit3ImageProcessor.from_pretrained(place)(wide)["pixel_values"] == 1).all()
    assert (module.Beit3ImageProcessor.from_pretrained(folder)(wide)["pixel_values"] == -1).any()


def test_arrays_and_several_images_are_taken_and_other_values_are_not(folder: Path) -> None:
    processor = import_code(folder, "processing_beit3").Beit3ImageProcessor.from_pretrained(folder)
    image = Image.open(io.BytesIO(images()["rgb"]))
    array = np.array(image)
    batch = processor([image, array, torch.from_numpy(array).permute(2, 0, 1)])["pixel_values"]
    assert batch.shape == (3, 3, CONFIG.image_size, CONFIG.image_size)
    assert torch.equal(batch[0], batch[1]) and torch.equal(batch[0], batch[2])
    with pytest.raises(
        ValueError, match=r"an image of shape \(57, 83, 3\) and torch.float64 is not 3 channels of uint8"
    ):
        processor(array / 255)
