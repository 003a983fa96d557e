"""Batches of a source, decoded and tokenized by worker processes ahead of the network, in the order of the source.

Workers write pixels into memory that they share with the main process, so that no image is copied or pickled on its
way. Its slots bound what is read ahead.

Shapes: B samples of a batch, S side of the images, L tokens of a text.
"""

import itertools
import mmap
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.dataset import encoded
from data_pipeline.shards.reader import UNREADABLE
from data_pipeline.shards.writer import as_stored
from data_pipeline.texts.tokenizer import PAD_ID, TextTokenizer
from data_pipeline.workers.pool import worker_pool
from data_pipeline.workers.under_way import at_sample
from pretrain.inference.sources import Listed, Samples

BATCHES_AHEAD = 2
"""Batches per worker that are being read or wait for the network."""


@dataclass(frozen=True)
class Reading:
    """How samples become inputs."""

    samples: Samples
    transform: ImageTransform | None
    """None for texts."""
    tokenizer: TextTokenizer | None
    """None for images."""
    length: int
    """Tokens of a text or caption, <s> and </s> included; longer ones are cut, as in training."""


@dataclass(frozen=True)
class Sample:
    """A sample that was read, or the reason why it could not be."""

    listed: Listed
    ids: list[int] | None = None
    """L word ids; None for images."""
    was_cut: bool = False
    """Whether the text is longer than L tokens."""
    problem: str | None = None

    @property
    def num_tokens(self) -> int:
        return 0 if self.ids is None else len(self.ids) - self.ids.count(PAD_ID)


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a source."""

    samples: list[Sample]
    """All of them, also those with a problem."""
    pixels: Tensor | None
    """(B, 3, S, S) uint8 of those without a problem, valid until the next batch is asked for; None for texts."""
    ids: Tensor | None
    """(B, L) int64 of those without a problem; None for images."""

    @property
    def num_good(self) -> int:
        """Number of samples without a problem."""
        return sum(sample.problem is None for sample in self.samples)


_reading: Reading | None = None
_slots: NDArray[np.uint8] | None = None
"""The slots of the reading that goes on: workers are forked from the main process and find both here, unpickled."""


def read_batches(reading: Reading, batch_size: int, num_workers: int) -> Generator[Batch, None, None]:
    """Yield the samples of a source in batches of `batch_size`.

    Raises ValueError if the source cannot be listed, or if a worker dies, with the sample that it was reading.
    """
    global _reading, _slots
    num_slots = BATCHES_AHEAD * num_workers + 1
    slots = _shared_slots(reading.transform, num_slots, batch_size)
    _reading, _slots = reading, slots
    free, waiting = deque(range(num_slots)), deque[tuple[int, Future[list[Sample]]]]()
    try:
        with worker_pool(num_workers) as workers:
            for listed in batched(iter(reading.samples), batch_size):
                slot = free.popleft()
                waiting.append((slot, workers.submit(_read_batch, slot, listed)))
                if not free:
                    slot, future = waiting.popleft()
                    yield _batch(future.result(), slots, slot)
                    free.append(slot)  # the caller has asked for the next batch: its pixels may be overwritten
            for slot, future in waiting:
                yield _batch(future.result(), slots, slot)
    finally:
        _reading = _slots = None


def batched(samples: Iterator[Listed], batch_size: int) -> Iterator[list[Listed]]:
    while batch := list(itertools.islice(samples, batch_size)):
        yield batch


def _shared_slots(transform: ImageTransform | None, num_slots: int, batch_size: int) -> NDArray[np.uint8] | None:
    """Return (num_slots, B, 3, S, S) in memory that forked processes share; None if there are no images."""
    if transform is None:
        return None
    shape = (num_slots, batch_size, 3, transform.size, transform.size)
    # anonymous, not in /dev/shm, which is small in containers; it is freed with the last array that refers to it
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)


def _read_batch(slot: int, batch: list[Listed]) -> list[Sample]:
    """Read samples in a worker; pixels go to the slot."""
    assert _reading is not None
    return [_read(_reading, listed, slot, place) for place, listed in enumerate(batch)]


def _read(reading: Reading, listed: Listed, slot: int, place: int) -> Sample:
    found = Sample(_without_content(listed))
    try:
        with at_sample(listed.place):
            if reading.tokenizer is not None:
                text = reading.samples.text(listed)
                ids = encoded(reading.tokenizer, text, reading.length)
                # its last id is </s> either way: one more token shows whether any was left out
                was_cut = PAD_ID not in ids and encoded(reading.tokenizer, text, reading.length + 1)[-1] != PAD_ID
                found = replace(found, ids=ids, was_cut=was_cut)
            if reading.transform is not None:
                assert _slots is not None
                image = as_stored(reading.samples.image(listed), reading.transform.max_pixels)
                _slots[slot][place] = reading.transform.center(image)
    except UNREADABLE as error:
        return replace(found, problem=str(error))
    return found


def _without_content(listed: Listed) -> Listed:
    """Return a listing to send back to the main process, which needs no texts and bytes."""
    return replace(listed, content=-1)


def _batch(samples: list[Sample], slots: NDArray[np.uint8] | None, slot: int) -> Batch:
    good = [place for place, sample in enumerate(samples) if sample.problem is None]
    pixels = ids = None
    if slots is not None:
        whole = torch.from_numpy(slots[slot])
        pixels = whole[: len(good)] if len(good) == len(samples) else whole[good]
    if good and samples[good[0]].ids is not None:
        ids = torch.tensor([samples[place].ids for place in good])
    return Batch(samples, pixels, ids)
