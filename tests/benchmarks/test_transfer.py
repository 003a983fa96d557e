"""The data of the study of transfer hold nothing that it asks, and recalls are counted as described. CPU, seconds."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.benchmarks.emoji_artists import EmojiArtists
from tests.benchmarks.transfer_figures import Features, gallery_of, reading_of
from tests.benchmarks.transfer_runs import training_pairs, training_texts
from tests.benchmarks.workers import map_or_stop


@pytest.fixture
def artists(tmp_path: Path) -> EmojiArtists:
    """Return a source of ten concepts, of which the last two are unseen, drawn by four artists, two of them alike."""
    concepts = [
        {
            "hexcode": f"{number:x}",
            "group": "flags" if number == 0 else "food",
            "labels": {"en": f"name {number}", "ru": f"имя {number}"},
            "tags": {"en": [f"tag {number}"]},
        }
        for number in range(10)
    ]
    split: dict[str, Any] = {
        "training_artists": ["asked", "glossy", "one", "two"],
        "same_drawings": [["asked", "glossy"]],
        "same_picture": {"asked": [["1", "2"]]},
        "unseen_concepts": ["8", "9"],
    }
    (tmp_path / "concepts.jsonl").write_text("".join(json.dumps(concept) + "\n" for concept in concepts))
    (tmp_path / "split.json").write_text(json.dumps(split))
    for artist in split["training_artists"]:
        (tmp_path / artist).mkdir()
        for number in range(10):
            if (artist, number) != ("two", 5):
                Image.new("RGBA", (4, 4), (number, 0, 0, 255)).save(
                    tmp_path / artist / f"{number:x}.webp", lossless=True
                )
    return EmojiArtists(tmp_path)


def test_training_holds_neither_the_artist_nor_the_unseen_concepts(artists: EmojiArtists) -> None:
    pairs = training_pairs(artists, "asked", ["en", "ru"])
    images = {str(pair["image"]) for pair in pairs}
    assert images == {f"pictures/one/{n}.png" for n in range(8)} | {f"pictures/two/{n}.png" for n in range(8) if n != 5}
    for words in (str(pairs), str(training_texts(artists, ["en", "ru"]))):
        assert all(f"{word} {number}" in words for word in ("name", "имя", "tag") for number in range(8))
        assert not any(f"{word} {number}" in words for word in ("name", "имя", "tag") for number in (8, 9))


def test_recalls_are_of_seen_concepts_among_all_and_of_unseen_ones_among_themselves(artists: EmojiArtists) -> None:
    gallery = gallery_of(artists, "asked", "ru", Path("pictures"))
    assert gallery.names[3] == "имя 3" and gallery.pictures[9] == Path("pictures/asked/9.png")
    images = torch.eye(10)
    texts = torch.eye(10)[[0, 2, 1, 3, 4, 5, 6, 7, 0, 9]]  # 1 and 2 find each other's picture, 8 finds that of 0
    found = reading_of(Features(images, texts), gallery)
    assert found.r1 == (6 / 8 + 5 / 8) / 2  # picture 0 is as near to the name of 8: ties count as wrong
    assert found.r5 == found.r5_text_to_image == found.r5_image_to_text == 6 / 8
    assert found.r5_without_flags == 5 / 7
    assert found.r5_same_picture == 1 and found.chance_r5 == 0.5 and found.chance_r5_unseen_concepts == 2.5
    assert found.r1_unseen_concepts == 0.5


def call(number: int, folder: Path) -> int:
    (folder / str(number)).touch()
    if number == 1:
        raise ValueError("of number 1")
    return number


@pytest.mark.parametrize("pool_type", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_work_ends_with_the_first_that_fails(
    pool_type: type[ThreadPoolExecutor] | type[ProcessPoolExecutor], tmp_path: Path
) -> None:
    with pool_type(1) as pool, pytest.raises(ValueError, match="of number 1"):
        map_or_stop(pool, 1, call, range(5), [tmp_path] * 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_results_are_in_the_order_of_the_arguments(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert map_or_stop(pool, 2, call, [5, 4, 3, 2], [tmp_path] * 4) == [5, 4, 3, 2]
