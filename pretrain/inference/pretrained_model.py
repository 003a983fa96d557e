"""A trained network for use from Python: images and texts in, features, similarities and captions out.

    from model import load_pretrained

    model = load_pretrained("runs/laptop")
    features = model.encode_image("picture.jpg")  # (1, D)

Images and texts are prepared as the weights were trained. No call computes gradients.

Shapes: I images, T texts, P pairs, D dim.
"""

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.samples.sample import Kind, PretrainingKind
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, TextTokenizer
from model.captioner import CaptionRules, Captions, captions
from model.dual_encoder import DualEncoder
from model.flash_attention import activate_flash_attention
from model.networks import Network, WordNetwork
from pretrain.config.run_config import WeightKind
from pretrain.conversion.opened import Opened, open_network
from pretrain.evaluation.chunks import check_finite
from pretrain.evaluation.written_captions import LONGEST, SHORTEST, Writing, caption_rules
from pretrain.inference.features import (
    TRAIN_HEADS,
    FeatureChoice,
    choose_features,
    features,
    inputs_of,
)
from pretrain.inference.images import Images, OneImage, decoded, normalized, pixels_of
from pretrain.inference.options import Pool, Precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_pretrained(
    path: Path | str,
    device: torch.device | str | None = None,
    precision: Precision | torch.dtype = "float32",
    batch_size: int = 32,
    weights: WeightKind = "raw",
) -> "PretrainedModel":
    """Return the network of a run (its newest checkpoint), a checkpoint folder, RUN/checkpoints/best, a folder that
    pretrain.convert --to safetensors wrote, or a file of Microsoft's.

    device: None: a GPU if there is one; precision: float32 or bfloat16; batch_size: samples per forward; weights: of a
    checkpoint: raw, as trained, or ema, their moving average. Raises ValueError if the path holds no such network.
    """
    return PretrainedModel(open_network(Path(path), weights), device, precision, batch_size)


class PretrainedModel:
    """A network with its preprocessing and its text tokenizer. All results are float32 on the CPU."""

    def __init__(
        self,
        opened: Opened,
        device: torch.device | str | None = None,
        precision: Precision | torch.dtype = "float32",
        batch_size: int = 32,
    ):
        """Move the network to the device. Raises ValueError if there is no such device or precision."""
        self.device = chosen_device(device)
        self.dtype = chosen_dtype(precision)
        self.batch_size = batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        self.preprocessing = opened.preprocessing
        self.origin = opened.origin
        """Where the weights are from, in words."""
        self.logit_scale: float | None = None
        """Factor of cosines before a softmax over texts, or over images; None without contrastive heads."""
        self.logit_bias: float | None = None
        """Added to scaled cosines before a sigmoid; None if the weights were not trained by the sigmoid loss."""
        if isinstance(opened.network, DualEncoder):  # before the network is rounded to the precision
            scale, bias = opened.network.logit_scale, opened.network.logit_bias
            self.logit_scale = scale.detach().exp().item()
            self.logit_bias = None if bias is None else bias.item()
        self.network: Network = opened.network.to(self.device, self.dtype).eval().requires_grad_(False)
        self._opened = opened
        self._tokenizer: TextTokenizer | None = None
        activate_flash_attention("auto", self.device)

    @property
    def is_dual_encoder(self) -> bool:
        """Whether the network has contrastive heads, so that images and texts can be compared."""
        return isinstance(self.network, DualEncoder)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The text tokenizer. Raises ValueError, with the remedy, if none lies beside the weights."""
        if self._tokenizer is None:
            tokenizer = TextTokenizer(self._opened.need_tokenizer())
            rows = self.network.encoder.config.vocab_size
            if tokenizer.vocab_size > rows:
                raise ValueError(
                    f"{tokenizer.path} has {tokenizer.vocab_size} ids, the network {rows} rows of words: it is the "
                    "text tokenizer of other weights"
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def choose(self, kind: PretrainingKind, pool: Pool | None = None, layers: Sequence[int] = ()) -> FeatureChoice:
        """Return the features to take: see `choose_features`. Raises ValueError if the weights do not have them."""
        self._opened.check_use(kind)
        return choose_features(self.network, kind, pool, tuple(layers))

    def encode_image(self, images: Images, pool: Pool | None = None, layers: Sequence[int] = ()) -> Tensor:
        """Return features of images, (I, ...): see pretrain/inference/features.py for pools and layers.

        images: one or several of Pillow's, paths or bytes of files, or a tensor (3, H, W) or (I, 3, H, W), uint8 or
        floating from 0 to 1. pool None: projected by the contrastive head if there is one and no layers are asked for,
        else the mean of patches. Raises ValueError for images or features that cannot be had.
        """
        choice = self.choose("image", pool, layers)
        return self._features("image", choice, pixels_of(images, self.preprocessing), None)

    def encode_text(
        self, texts: str | Sequence[str], pool: Pool | None = None, layers: Sequence[int] = (), truncate: bool = False
    ) -> Tensor:
        """Return features of texts, (T, ...), as `encode_image` does of images.

        truncate: cut texts that are longer than those of training, as training does; otherwise they raise ValueError.
        """
        choice = self.choose("text", pool, layers)
        return self._features("text", choice, None, self.token_ids("text", texts, truncate))

    def encode_pair(
        self,
        images: Images,
        texts: str | Sequence[str],
        pool: Pool | None = None,
        layers: Sequence[int] = (),
        truncate: bool = False,
    ) -> Tensor:
        """Return features of image-text pairs, (P, ...): each image and its text see each other."""
        choice = self.choose("pair", pool, layers)
        pixels = pixels_of(images, self.preprocessing)
        ids = self.token_ids("pair", texts, truncate)
        if len(pixels) != len(ids):
            raise ValueError(f"{len(pixels)} images and {len(ids)} texts are not pairs; give as many of each")
        return self._features("pair", choice, pixels, ids)

    def similarity(self, images: Images, texts: str | Sequence[str], truncate: bool = False) -> Tensor:
        """Return the cosine of each image with each text, (I, T). Raises ValueError without contrastive heads."""
        if not self.is_dual_encoder:
            raise ValueError(
                f"{self.origin} has no contrastive heads, and without them images and texts cannot be compared; "
                f"{TRAIN_HEADS}"
            )
        return self.encode_image(images, "projected") @ self.encode_text(texts, "projected", truncate=truncate).T

    def caption(
        self,
        images: Images,
        num_beams: int = 3,
        length_penalty: float = 0.6,
        max_length: int | None = None,
        min_words: int = 1,
    ) -> list[str]:
        """Return a caption of each image, by beam search; num_beams 1: greedily. See model/captioner.py.

        max_length: most tokens, <s> and </s> included; None: 32, or fewer if the captions of training are shorter.
        Raises ValueError without a head for words.
        """
        rules = self.caption_rules(num_beams, length_penalty, max_length, min_words)
        pixels = pixels_of(images, self.preprocessing)
        found = [self.captions_of(self.inputs(pixels[part]), rules) for part in self._batches(pixels)]
        check_finite(torch.cat([part.scores for part in found])[:, None], "image {}".format)
        return [self.tokenizer.decode(ids) for part in found for ids in part.ids.tolist()]

    def caption_rules(
        self, num_beams: int, length_penalty: float, max_length: int | None, min_words: int
    ) -> CaptionRules:
        """Return the rules of captions by this network's words. Raises ValueError if there can be no such captions."""
        if not isinstance(self.network, WordNetwork) or not hasattr(self.network, "mlm_head"):
            kind = "a dual encoder" if self.is_dual_encoder else "the network of another task"
            raise ValueError(
                f"{self.origin} is {kind}, which has no head for words; caption by the weights that it began with"
            )
        self._opened.check_use("pair")
        longest = self.network.encoder.config.max_text_length
        max_length = min(LONGEST, self.text_length("pair")) if max_length is None else max_length
        if not SHORTEST <= max_length <= longest:
            raise ValueError(
                f"max_length {max_length} must be from {SHORTEST} to {longest}, the positions of the network"
            )
        if not 0 <= min_words <= max_length - 2:
            raise ValueError(f"min_words {min_words} must be from 0 to max_length - 2, {max_length - 2}")
        if num_beams < 1 or not length_penalty >= 0:
            raise ValueError(f"num_beams {num_beams} must be at least 1, length_penalty {length_penalty} at least 0")
        writing = Writing(num_beams, length_penalty, max_length, min_words)
        return caption_rules(self.tokenizer, self.network.encoder.config.vocab_size, writing)

    def captions_of(self, pixels: Tensor, rules: CaptionRules) -> Captions:
        """Return captions of pixels (I, 3, S, S) as the network takes them."""
        assert isinstance(self.network, WordNetwork), "caption_rules refuses a network without a head for words"
        return captions(self.network, pixels, rules)

    def token_ids(self, kind: Kind, texts: str | Sequence[str], truncate: bool = False) -> Tensor:
        """Return the ids of texts, (T, L), padded to the longest. Raises ValueError for a text without tokens, and
        unless truncate for one that is longer than those of training."""
        texts = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"a text is of type {type(wrong[0]).__name__}; give a str, or a list of them")
        longest = self.text_length(kind)
        rows = []
        for place, text in enumerate(texts):
            ids = self.tokenizer.encode(text)
            if not ids:
                raise ValueError(f"text {place} {text!r:.60} has no token of the text tokenizer")
            if len(ids) > longest - 2 and not truncate:
                raise ValueError(
                    f"text {place} has {len(ids) + 2} tokens, <s> and </s> included, more than the {longest} of "
                    "training; shorten it, or give truncate=True to cut it as training does"
                )
            rows.append([BOS_ID, *ids[: longest - 2], EOS_ID])
        length = max(map(len, rows), default=1)
        return torch.tensor([row + [PAD_ID] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)

    def text_length(self, kind: Kind) -> int:
        """Return the length of the longest text, or caption of a pair, in tokens."""
        trained = self.preprocessing.caption_length if kind == "pair" else self.preprocessing.text_length
        return min(trained, self.network.encoder.config.max_text_length)

    def inputs(self, images: list[OneImage] | Tensor) -> Tensor:
        """Return images, or pixels (I, 3, S, S), uint8 or floating from 0 to 1, as the network takes them."""
        pixels = images if isinstance(images, Tensor) else decoded(images, self.preprocessing)
        return normalized(pixels, self.preprocessing, self.device, self.dtype)

    def features_of(
        self, kind: Kind, choice: FeatureChoice, images: list[OneImage] | Tensor | None, ids: Tensor | None
    ) -> Tensor:
        """Return features of the samples of one batch, on the device. images: as for `inputs`, None for texts; ids: as
        from `token_ids`, None for images."""
        pixels = None if images is None else self.inputs(images)
        return features(self.network, inputs_of(kind, self.network, pixels, ids), kind, choice)

    def _features(
        self, kind: Kind, choice: FeatureChoice, images: list[OneImage] | Tensor | None, ids: Tensor | None
    ) -> Tensor:
        """Return the same on the CPU, batch by batch. Raises ValueError if they are not finite."""
        parts = self._batches(ids if images is None else images)
        found = [
            self.features_of(
                kind, choice, None if images is None else images[part], None if ids is None else ids[part]
            ).cpu()
            for part in parts
        ]
        rows = torch.cat(found)
        check_finite(rows, "sample {}".format)
        return rows

    def _batches(self, samples: Sized | None) -> list[slice]:
        """Return the batches of some samples. Raises ValueError if there are none."""
        if samples is None or not len(samples):
            raise ValueError("there is nothing to encode; give at least one image or text")
        return [slice(start, start + self.batch_size) for start in range(0, len(samples), self.batch_size)]


def chosen_device(device: torch.device | str | None) -> torch.device:
    """Return the device; None: a GPU if there is one. Raises ValueError if there is no such device."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot be used here ({str(error).splitlines()[0]}); give cpu") from error
    return found


def chosen_dtype(precision: Precision | torch.dtype) -> torch.dtype:
    """Return the type of the network's weights. Raises ValueError for another precision."""
    found = precision if isinstance(precision, torch.dtype) else DTYPES.get(precision)
    if found is None or found not in DTYPES.values():
        raise ValueError(f"precision {precision} must be one of {', '.join(DTYPES)}")
    return found
