"""Queries with their best answers, compared with numpy. CPU, milliseconds."""

import numpy as np
import torch

from pretrain.evaluation.retrieval import retrieval_recall
from pretrain.reporting.retrieval_gallery import image_queries, text_queries


def picture(image: int) -> torch.Tensor:
    return torch.full((3, 2, 2), image, dtype=torch.uint8)


def test_texts_are_shown_with_the_nearest_images_and_the_rank_of_the_right_one() -> None:
    generator = np.random.default_rng(0)
    images, texts = generator.normal(size=(12, 8)), generator.normal(size=(20, 8))
    own = np.arange(20) % 12
    arguments = [torch.tensor(part) for part in (images, texts, own)]
    captions = [f"text {number}" for number in range(20)]
    names = [f"image {number}" for number in range(12)]
    queries = text_queries(*arguments, captions, picture, range(20), names, num_answers=5)
    similarities = texts / np.linalg.norm(texts, axis=1)[:, None] @ (images / np.linalg.norm(images, axis=1)[:, None]).T
    for number, query in enumerate(queries):
        order = (-similarities[number]).argsort()
        assert query.item.text == captions[number] and query.num_candidates == 12
        assert [answer.text for answer in query.answers] == [names[image] for image in order[:5]]
        assert [int(answer.image[0, 0, 0]) for answer in query.answers if answer.image is not None] == list(order[:5])
        assert query.is_right == [image == own[number] for image in order[:5]]
        assert order[query.rank - 1] == own[number]
    recall = retrieval_recall(*arguments)["retrieval/text_to_image_r5"]
    assert sum(any(query.is_right) for query in queries) / 20 == recall  # the gallery shows what the figure counts


def test_images_are_shown_with_the_nearest_texts_of_which_several_may_be_right() -> None:
    images, texts = torch.eye(3), torch.eye(3)[[0, 1, 0, 2]]
    (query,) = image_queries(images, texts, torch.tensor([0, 1, 0, 2]), ["a", "b", "c", "d"], picture, [0], 3)
    assert [answer.text for answer in query.answers][:2] == ["a", "c"] and query.is_right == [True, True, False]
    assert query.rank == 1 and query.item.image is not None and int(query.item.image[0, 0, 0]) == 0


def test_of_equal_answers_the_wrong_ones_come_first() -> None:
    (query,) = text_queries(torch.ones(4, 2), torch.ones(1, 2), torch.tensor([1]), ["a"], picture, [0], num_answers=4)
    assert query.is_right == [False, False, False, True] and query.rank == 4
