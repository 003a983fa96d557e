"""Batches that workers read, in the order of the source. CPU, seconds."""

import os
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from data_pipeline.samples.sample import BadSampleError
from data_pipeline.samples.scenes import draw_samples
from data_pipeline.texts.tokenizer import PAD_ID, TextTokenizer
from pretrain.formats.preprocessing import Preprocessing
from pretrain.inference.reading import Batch, Reading, batched, read_batches
from pretrain.inference.sources import Listed
from tests.support.tiny_run import TinyData

SIZE, LENGTH = 32, 12
SCENES = list(draw_samples("pair", 23))


@dataclass
class Scenes:
    """Drawn scenes in memory, of which some are bad."""

    bad: tuple[int, ...] = ()
    deadly: int = -1
    """Number of a scene that kills the process that reads it."""
    num_samples: int | None = None

    def __iter__(self) -> Iterator[Listed]:
        return (Listed(f"scene {number}", f"memory: {number}", number) for number in range(len(SCENES)))

    def image(self, listed: Listed) -> bytes:
        assert isinstance(listed.content, int)
        if listed.content == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if listed.content in self.bad:
            raise BadSampleError("image is bad (details)")
        return SCENES[listed.content].image or b""

    def text(self, listed: Listed) -> str:
        assert isinstance(listed.content, int)
        return SCENES[listed.content].text or ""


def read(
    samples: Scenes, tokenizer: TextTokenizer | None, batch_size: int = 4, num_workers: int = 2
) -> Generator[Batch, None, None]:
    reading = Reading(samples, Preprocessing(SIZE).image_transform(), tokenizer, LENGTH)
    return read_batches(reading, batch_size, num_workers)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 1), (4, 2), (30, 2)])
def test_pixels_and_words_come_in_the_order_of_the_source(
    batch_size: int, num_workers: int, tiny_data: TinyData
) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    place = 0
    for batch in read(Scenes(), tokenizer, batch_size, num_workers):
        assert batch.pixels is not None and batch.ids is not None
        for sample, pixels, ids in zip(batch.samples, batch.pixels, batch.ids, strict=True):
            scene = SCENES[place]
            assert sample.listed.key == f"scene {place}" and scene.image and scene.text
            assert torch.equal(pixels, torch.from_numpy(Preprocessing(SIZE).image_transform().center(scene.image)))
            assert ids.tolist() == tokenizer.encode_to_length(scene.text, LENGTH)
            assert sample.num_tokens == int((ids != PAD_ID).sum())
            assert sample.was_cut == (len(tokenizer.encode(scene.text)) > LENGTH - 2)
            place += 1
    assert place == len(SCENES)


def test_bad_samples_keep_their_place_and_their_reason_and_have_no_pixels() -> None:
    batches = read(Scenes(bad=(0, 5, 8, 9, 10, 11)), None)
    place = 0
    for batch in batches:
        assert batch.pixels is not None and batch.ids is None
        good = [sample for sample in batch.samples if sample.problem is None]
        assert len(batch.pixels) == len(good)
        for sample in batch.samples:
            assert sample.listed.key == f"scene {place}"
            assert sample.problem == ("image is bad (details)" if place in (0, 5, 8, 9, 10, 11) else None)
            place += 1
        for sample, pixels in zip(good, batch.pixels, strict=True):
            scene = SCENES[int(sample.listed.key.split()[1])].image
            assert scene and torch.equal(pixels, torch.from_numpy(Preprocessing(SIZE).image_transform().center(scene)))
    assert place == len(SCENES)


def test_a_worker_that_dies_is_reported_with_its_sample() -> None:
    with pytest.raises(ValueError, match="a worker process was killed.*memory: 7"):
        list(read(Scenes(deadly=7), None, num_workers=1))


def test_the_source_is_not_listed_further_than_the_workers_read_ahead(tmp_path: Path) -> None:
    listed = 0

    @dataclass
    class Endless(Scenes):
        def __iter__(self) -> Iterator[Listed]:
            nonlocal listed
            while True:
                listed += 1
                yield Listed("again", "memory", 0)

    batches = read(Endless(), None, batch_size=2, num_workers=1)
    for _ in range(5):
        next(batches)
    assert listed <= 2 * (5 + 3)
    batches.close()


def test_batches_are_as_long_as_asked_for_but_the_last() -> None:
    assert [len(batch) for batch in batched(iter(Scenes()), 10)] == [10, 10, 3]
