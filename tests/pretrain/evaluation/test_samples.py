"""Held-out samples by their place. CPU, seconds."""

import torch

from data_pipeline.loading.config import DataConfig
from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.evaluation.held_out import read_held_out
from pretrain.evaluation.samples import open_held_out
from tests.support.tiny_run import TinyData


def test_samples_are_the_first_of_the_shards_without_augmentation(tiny_data: TinyData) -> None:
    folder, data = tiny_data.folder / "pairs", DataConfig(caption_length=12)
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    pairs = open_held_out(str(folder), "evaluation.pairs", "pair", 11, data, 40, tokenizer, True)
    images, captions = read_held_out(folder, data, 40, 11)
    found, is_good = pairs.images(range(11))
    assert pairs.num_samples == 11 and torch.equal(found, images) and is_good.all()
    assert pairs.texts() == captions
    sample, _ = pairs.sample(7)
    assert sample.sample_id == 7 and sample.ids == tokenizer.encode_to_length(captions[7], 12)
    alone = open_held_out(str(folder), "evaluation.images", "image", 11, data, 40, None, True)
    assert torch.equal(alone.images([3, 1])[0], images[[3, 1]])
    assert alone.sample(3)[0].ids is None
