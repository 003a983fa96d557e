"""Images and texts as BEiT-3 takes them: pixels of a square in [-1, 1], and ids of SentencePiece's pieces.

    id      0     1       2      3       4 ...     last
    token   <s>   <pad>   </s>   <unk>   pieces    <mask>

A piece has its SentencePiece id + 1, as in XLM-RoBERTa; SentencePiece itself is <unk> 0, <s> 1, </s> 2, pieces from 3.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sentencepiece
import torch
from PIL import ExifTags, Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizer, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

VOCABULARY = "text_tokenizer.spm"
SPECIALS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns an image upright, by its EXIF orientation."""


class Beit3Tokenizer(PreTrainedTokenizer):
    """SentencePiece with the ids above; a text becomes <s> pieces </s>.

    `<mask>`, `<s>` and so on in a text are special tokens, as in other tokenizers of transformers. With
    split_special_tokens=True they are read as the characters that they consist of.
    """

    vocab_files_names: ClassVar = {"vocab_file": VOCABULARY}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: Any):
        self.vocab_file = vocab_file
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=vocab_file)
        self.mask_id = len(self.pieces) + 1
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"}
        names |= {"pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}
        super().__init__(**{**names, "clean_up_tokenization_spaces": False, **kwargs})

    @property
    def vocab_size(self) -> int:
        return self.mask_id + 1

    def get_vocab(self) -> dict[str, int]:
        pieces = {self.pieces.id_to_piece(id): id + 1 for id in range(3, len(self.pieces))}
        return {**pieces, **SPECIALS, "<mask>": self.mask_id, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.pieces.encode(text, out_type=str)

    def _convert_token_to_id(self, token: str) -> int:
        if token in SPECIALS or token == "<mask>":
            return SPECIALS.get(token, self.mask_id)
        piece = self.pieces.piece_to_id(token)
        return SPECIALS["<unk>"] if piece == self.pieces.unk_id() else piece + 1

    def _convert_id_to_token(self, index: int) -> str:
        special = next((token for token, id in SPECIALS.items() if id == index), None)
        if special or not 0 <= index < self.mask_id:  # ids above <mask> have rows in the network, but no token
            return special or ("<mask>" if index == self.mask_id else "<unk>")
        return self.pieces.id_to_piece(index - 1)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.pieces.decode([token for token in tokens if token not in SPECIALS and token != "<mask>"])

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        return [0, *first, 2] if second is None else [0, *first, 2, *second, 2]

    def get_special_tokens_mask(
        self, first: list[int], second: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 for special tokens and 0 for pieces."""
        if already_has_special_tokens:
            return super().get_special_tokens_mask(first, second, already_has_special_tokens=True)
        ends = [] if second is None else [0] * len(second) + [1]
        return [1] + [0] * len(first) + [1] + ends

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}{VOCABULARY}"
        if path.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, path)
        return (str(path),)


class Beit3ImageProcessor(BaseImageProcessor):
    """Images scaled to a square, bicubic and antialiased, by torch."""

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(
        self,
        size: dict[str, int] | None = None,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        do_center_crop: bool = False,
        **kwargs: Any,
    ):
        """size: height and width in pixels; image_mean, image_std: of red, green and blue in [0, 1]; do_center_crop:
        scale the largest square at the center, not the whole image whatever its aspect ratio."""
        super().__init__(**kwargs)
        self.size = dict(size or {"height": 224, "width": 224})
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.do_center_crop = do_center_crop

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Return pixel_values, (B, 3, height, width) float32.

        images: one or several: of Pillow, or uint8 arrays or tensors, (height, width, 3) or (3, height, width).
        """
        images = list(images) if isinstance(images, list | tuple) else [images]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        pixels = [(self._resized(pixels_of(image)).float() / 255 - mean) / std for image in images]
        return BatchFeature({"pixel_values": torch.stack(pixels)}, tensor_type=return_tensors)

    def _resized(self, pixels: Tensor) -> Tensor:
        """(height, width, 3) uint8 -> (3, size, size) uint8"""
        if self.do_center_crop:
            height, width = pixels.shape[:2]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            pixels = pixels[top : top + side, left : left + side]
        size = (self.size["height"], self.size["width"])
        return torch.nn.functional.interpolate(pixels[None].permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)[
            0
        ]


def pixels_of(image: Any) -> Tensor:
    """Return (height, width, 3) uint8. Raises ValueError for anything but an image."""
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(rgb(image)))
    pixels = torch.as_tensor(image)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = pixels.permute(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != torch.uint8:
        shape = tuple(pixels.shape)
        raise ValueError(f"an image of shape {shape} and {pixels.dtype} is not 3 channels of uint8; give a PIL.Image")
    return pixels


def rgb(image: Image.Image) -> Image.Image:
    """Return an image upright, by its EXIF orientation, and as 8-bit RGB, its transparent pixels white.

    Raises ValueError for pixels of 32 bits, OSError if the image is broken.
    """
    if image.mode in ("F", "I"):
        raise ValueError("an image has pixels of 32 bits, whose black and white are not known; give 8 or 16 bits")
    image.load()  # in a PNG, EXIF may follow the pixels
    # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted
    is_inverted = image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info
    with contextlib.suppress(Exception):  # damaged EXIF data does not make an image unusable
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits of gray, which Pillow would cut off at 255
        gray = np.asarray(image).astype(np.int64)
        transparent = gray == image.info.get("transparency", -1)
        image = Image.fromarray(np.where(transparent, 255, (gray * 255 + 32767) // 65535).astype(np.uint8))
    if is_inverted:
        image = ImageChops.invert(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


class Beit3Processor(ProcessorMixin):
    """Images, texts or both to the inputs of `Beit3Model`: tensors, padded, cut to the lengths of training."""

    if hasattr(ProcessorMixin, "attributes"):  # transformers 4; 5 reads the parameters of __init__
        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, caption_length: int | None = None):
        """caption_length: longest text beside an image, in tokens; None: that of a text alone."""
        super().__init__(image_processor, tokenizer)
        self.caption_length = caption_length

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        truncation: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return pixel_values if there are images, input_ids and attention_mask if there are texts."""
        if images is None and text is None:
            raise ValueError("neither images nor text are given; give one of them, or both")
        inputs = {} if images is None else self.image_processor(images, return_tensors=return_tensors)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            options: dict[str, Any] = {"padding": padding, "truncation": truncation, "return_tensors": return_tensors}
            options["max_length"] = self.caption_length if images is not None else None  # None: model_max_length
            inputs = {**inputs, **self.tokenizer(texts, **{**options, **kwargs})}
        return BatchFeature(dict(inputs))
