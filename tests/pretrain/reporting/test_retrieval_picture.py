"""The picture of a retrieval gallery. CPU, seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.reporting.retrieval_gallery import Item, Query
from pretrain.reporting.retrieval_picture import RIGHT, draw_retrieval


def share_of(color: str, path: Path) -> float:
    """Return the share of a picture's pixels that have this color."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return float((pixels == wanted).all(2).mean())


@pytest.mark.parametrize("asks_texts", [True, False])
def test_right_answers_are_framed(asks_texts: bool, tmp_path: Path) -> None:
    image, text = Item(image=torch.full((3, 8, 8), 200, dtype=torch.uint8)), Item("costs $5 or $6 " * 20)
    query, answer = (text, image) if asks_texts else (image, text)
    shares = []
    for num_right in (0, 1, 2):
        is_right = [number < num_right for number in range(3)]
        queries = [Query(query, [answer] * 3, is_right, 1, 9), Query(query, [answer] * 2, [False] * 2, 7, 9)]
        draw_retrieval(queries, tmp_path / "gallery.png", "found by $text")
        shares.append(share_of(RIGHT, tmp_path / "gallery.png"))
    assert shares[0] == 0 < shares[1] < shares[2]
