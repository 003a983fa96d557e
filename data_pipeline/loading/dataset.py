"""The loader's dataset of pretraining and of the contrastive stage: images, pairs and texts."""

import hashlib

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.batch import BatchShape, LoadedSample, StepBatch, collate
from data_pipeline.loading.class_texts import ClassTexts, open_class_texts
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.kind_sources import Source
from data_pipeline.loading.shard_dataset import CAPTION, ShardDataset, sample_generator
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import EOS_ID, NO_TOKEN, TextTokenizer, UnknownShare

LONGEST_PIECE = 64
"""Characters of a text that are encoded for each token that fits: pieces are shorter, and a book takes seconds."""


class StepDataset(ShardDataset[StepBatch, LoadedSample]):
    """Samples whose global batch is ordered [ images | pairs | texts ]."""

    def __init__(
        self,
        config: DataConfig,
        samples_per_step: SamplesPerStep,
        image_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        ranks_per_node: int = 1,
    ):
        """image_size: side of the images in pixels, the larger of the network's and the visual tokenizer's view;
        ranks_per_node: as for `ShardDataset`. Raises ValueError as it does, and for texts without a tokenizer.
        """
        self.samples_per_step = samples_per_step
        self.shape = BatchShape(image_size, config.caption_length, config.text_length)
        if config.text_tokenizer is None and samples_per_step.pairs + samples_per_step.texts:
            raise ValueError("captions and texts need data.text_tokenizer; give a SentencePiece model")
        self.tokenizer = TextTokenizer(config.text_tokenizer) if config.text_tokenizer is not None else None
        self.transform = ImageTransform(
            image_size, config.min_crop_scale, config.color_jitter, config.horizontal_flip, config.max_image_pixels
        )
        kinds: list[tuple[Kind, tuple[str, ...], int]] = [
            ("image", config.images, samples_per_step.images),
            ("pair", config.pairs, samples_per_step.pairs),
            ("text", config.texts, samples_per_step.texts),
        ]
        super().__init__(kinds, config, seed, rank, world_size, ranks_per_node)
        pairs = self.kinds["pair"].sources if "pair" in self.kinds else []
        labelled = [source.name for source in pairs if source.index.kind == "label"]
        self.class_texts: ClassTexts | None = open_class_texts(config, labelled) if labelled else None
        """None if no pairs are labelled images."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of all datasets, for pairs also of the texts of their classes."""
        found = super().fingerprints
        if self.class_texts is not None:
            found["pair"] += f" {self.class_texts.fingerprint}"
        return found

    def collate(self, step: int, samples: list[LoadedSample], bad: list[BadSample], failure: str = "") -> StepBatch:
        return collate(step, samples, bad, self.shape, failure)

    def load(self, kind: Kind, reader: SampleReader, sample: int, sample_id: int) -> LoadedSample:
        pixels = ids = text_hash = None
        if kind != "text":
            pixels = self.transform(reader.image_bytes(sample), sample_generator(self.seed, sample_id))
        if kind == "text":
            ids = self._encode(reader.text(sample), self.shape.text_length)
        elif kind == "pair":
            caption, shared = self._caption(reader, sample, sample_id)
            ids, text_hash = self._encode(caption, self.shape.caption_length), hash_of_text(shared)
        return LoadedSample(kind, sample_id, reader.key(sample), pixels, ids, text_hash)

    def covered_share(self, source: Source) -> UnknownShare:
        if source.index.kind != "label":
            return super().covered_share(source)
        assert self.class_texts is not None and self.tokenizer is not None
        return self.class_texts.covered_share(self.tokenizer)

    def _caption(self, reader: SampleReader, sample: int, sample_id: int) -> tuple[str, str]:
        """Return the caption of a pair and the text that it shares with its equals: itself, or the name of the class
        of a labelled image."""
        if reader.index.kind != "label":
            caption = drawn_text(reader, sample, self.seed, sample_id)
            return caption, caption
        assert self.class_texts is not None
        name = self.class_texts.name(reader.annotation(sample))
        return self.class_texts.text(name, self.seed, sample_id), name

    def _encode(self, text: str, length: int) -> list[int]:
        assert self.tokenizer is not None
        return encoded(self.tokenizer, text, length)


def drawn_text(reader: SampleReader, sample: int, seed: int, sample_id: int) -> str:
    """Return the text of a sample; of several captions of an image, one that is drawn by the sample's id.

    Raises BadSampleError if there is none.
    """
    texts = reader.texts(sample)
    if not texts:
        raise BadSampleError("image has no captions, as those of a test split")
    return texts[int(sample_generator(seed, sample_id, CAPTION).integers(len(texts)))] if len(texts) > 1 else texts[0]


def encoded(tokenizer: TextTokenizer, text: str, length: int) -> list[int]:
    """Return the `length` ids of a text, cut or padded. Raises BadSampleError if the tokenizer finds no token in it."""
    ids = tokenizer.encode_to_length(text[: length * LONGEST_PIECE], length)
    if ids[1] == EOS_ID:
        raise BadSampleError(NO_TOKEN)
    return ids


def hash_of_text(text: str) -> int:
    """Return 63 bits that are equal for equal texts, in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
