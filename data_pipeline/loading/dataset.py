"""The loader's dataset of pretraining and of the contrastive stage: images, pairs and texts."""

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.batch import BatchShape, LoadedSample, StepBatch, collate
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.shard_dataset import CAPTION, ShardDataset, sample_generator
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import EOS_ID, NO_TOKEN, TextTokenizer

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

    def collate(self, step: int, samples: list[LoadedSample], bad: list[BadSample], failure: str = "") -> StepBatch:
        return collate(step, samples, bad, self.shape, failure)

    def load(self, kind: Kind, reader: SampleReader, sample: int, sample_id: int) -> LoadedSample:
        pixels = ids = None
        if kind != "text":
            pixels = self.transform(reader.image_bytes(sample), sample_generator(self.seed, sample_id))
        if kind != "image":
            length = self.shape.caption_length if kind == "pair" else self.shape.text_length
            ids = self._encode(drawn_text(reader, sample, self.seed, sample_id), length)
        return LoadedSample(kind, sample_id, reader.key(sample), pixels, ids)

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
