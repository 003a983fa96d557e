"""Queries with their best answers, compared with numpy. CPU, seconds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from model.dual_encoder import DualEncoder
from pretrain.checkpoints.reader import TEXT_TOKENIZER_NAME, Checkpoint
from pretrain.config.contrast import ContrastConfig
from pretrain.evaluation.captioned_images import open_captioned_images
from pretrain.evaluation.retrieval import retrieval_recall
from pretrain.recipes.contrast import contrast_demo
from pretrain.reporting.retrieval_gallery import image_queries, retrieval_gallery, text_queries
from tests.support.shard_files import png
from tests.support.tiny import CONFIG, tiny_dual_encoder
from tests.support.tiny_run import TinyData


def picture(image: int) -> torch.Tensor:
    return torch.full((3, 2, 2), image, dtype=torch.uint8)


def test_texts_are_shown_with_the_nearest_images_and_the_rank_of_the_right_one() -> None:
    generator = np.random.default_rng(0)
    images, texts = generator.normal(size=(12, 8)), generator.normal(size=(20, 8))
    own = np.arange(20) % 12
    image_rows, text_rows, owners = torch.tensor(images), torch.tensor(texts), torch.tensor(own)
    captions = [f"text {number}" for number in range(20)]
    names = [f"image {number}" for number in range(12)]
    queries = text_queries(image_rows, text_rows, owners, captions, picture, range(20), names, num_answers=5)
    similarities = texts / np.linalg.norm(texts, axis=1)[:, None] @ (images / np.linalg.norm(images, axis=1)[:, None]).T
    for number, query in enumerate(queries):
        order = (-similarities[number]).argsort()
        assert query.item.text == captions[number] and query.num_candidates == 12
        assert [answer.text for answer in query.answers] == [names[image] for image in order[:5]]
        assert [int(answer.image[0, 0, 0]) for answer in query.answers if answer.image is not None] == list(order[:5])
        assert query.is_right == [image == own[number] for image in order[:5]]
        assert order[query.rank - 1] == own[number]
    recall = retrieval_recall(image_rows, text_rows, owners)["retrieval/text_to_image_r5"]
    assert sum(any(query.is_right) for query in queries) / 20 == recall  # the gallery shows what the figure counts


def test_images_are_shown_with_the_nearest_texts_of_which_several_may_be_right() -> None:
    images, texts = torch.eye(3), torch.eye(3)[[0, 1, 0, 2]]
    (query,) = image_queries(images, texts, torch.tensor([0, 1, 0, 2]), ["a", "b", "c", "d"], picture, [0], 3)
    assert [answer.text for answer in query.answers][:2] == ["a", "c"] and query.is_right == [True, True, False]
    assert query.rank == 1 and query.item.image is not None and int(query.item.image[0, 0, 0]) == 0


def test_of_equal_answers_the_wrong_ones_come_first() -> None:
    (query,) = text_queries(torch.ones(4, 2), torch.ones(1, 2), torch.tensor([1]), ["a"], picture, [0], num_answers=4)
    assert query.is_right == [False, False, False, True] and query.rank == 4


def checkpoint_and_network(tiny_data: TinyData, folder: Path) -> tuple[Checkpoint[ContrastConfig], DualEncoder]:
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    model = replace(CONFIG, vocab_size=TextTokenizer(tokenizer).vocab_size)
    data = replace(contrast_demo().data, caption_length=12)
    config = replace(contrast_demo(), model=model, data=data, initial_weights=None)
    shutil.copy(tokenizer, folder / TEXT_TOKENIZER_NAME)
    checkpoint = Checkpoint[ContrastConfig](folder, 1, 1, {}, {}, {}, config)
    return checkpoint, tiny_dual_encoder(vocab_size=model.vocab_size)


def test_the_gallery_of_a_checkpoint_asks_for_the_first_pairs(tiny_data: TinyData, tmp_path: Path) -> None:
    checkpoint, network = checkpoint_and_network(tiny_data, tmp_path)
    data = checkpoint.config.data
    found = retrieval_gallery(checkpoint, network, tiny_data.folder / "pairs", 3)
    pairs = open_captioned_images(str(tiny_data.folder / "pairs"), "pairs", None, None, data, 32)
    assert [query.item.text for query in found.texts] == pairs.captions[:3]
    assert all(query.num_candidates == 40 and len(query.answers) == 5 for query in [*found.texts, *found.images])
    for place, query in enumerate(found.images):
        assert query.item.image is not None and torch.equal(query.item.image, pairs.images([place])[0][0])
        own = [answer.text == pairs.captions[place] for answer in query.answers]
        assert query.is_right == own and any(own) == (query.rank <= 5)


def test_images_that_cannot_be_read_are_neither_queries_nor_candidates(tiny_data: TinyData, tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    for number in range(4):
        content = b"no image" if number == 1 else png((60 * number, 0, 0))
        (tmp_path / f"{number}.png").write_bytes(content)
    source.write_text("".join(json.dumps({"image": f"{n}.png", "caption": f"caption {n}"}) + "\n" for n in range(4)))
    found = retrieval_gallery(*checkpoint_and_network(tiny_data, tmp_path), source, 3)
    assert [query.item.text for query in found.texts] == ["caption 0", "caption 2", "caption 3"]
    reds = [query.item.image[0, 0, 0].item() for query in found.images if query.item.image is not None]
    assert reds == [0, 120, 180]
    for query in [*found.texts, *found.images]:
        assert query.num_candidates == 3 and len(query.answers) == 3 and query.rank <= 3
        assert "caption 1" not in [answer.text for answer in query.answers]
    for number in (0, 2, 3):
        (tmp_path / f"{number}.png").write_bytes(b"no image %d" % number)
    with pytest.raises(ValueError, match="none of its first 4 images can be used"):
        retrieval_gallery(*checkpoint_and_network(tiny_data, tmp_path), source, 3)
