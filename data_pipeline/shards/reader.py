"""Random access to the bytes of a sample in a folder of shards."""

import contextlib
import errno
import os
import queue
import threading
import weakref
import zlib
from collections import OrderedDict
from typing import Literal

import numpy as np

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.files.retries import PERMANENT_ERRNOS, FileErrors, with_retries
from data_pipeline.samples.sample import PARTS, BadSampleError, PartName, check_text, key_text, printable
from data_pipeline.samples.tasks import Annotation, CaptionAnnotation, parse_annotation
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import ShardIndex
from data_pipeline.shards.members import caption_in_json

MAX_OPEN_SHARDS = 64
MAX_OPEN_COPIES = 8
"""Limit for remote shards: an open copy stays on the disk even after the cache has evicted it."""


class ShardMismatchError(Exception):
    """Raised if a shard is not the one that was indexed: none of its records can be trusted."""


UNREADABLE = (BadSampleError, OSError, ShardMismatchError)
"""Errors of a sample that is left out, while the others are read."""


class SampleReader:
    """Reads members by offset, in this process and in processes forked from it.

    By pread: it has no file position that two processes with a common descriptor could move under each other.
    """

    def __init__(self, index: ShardIndex, max_member_bytes: int, cache: ShardCache | None = None):
        """cache: required if the folder is a URL."""
        self.index = index
        self.max_member_bytes = max_member_bytes
        self.cache = cache if is_remote(index.folder) else None
        if self.cache is not None:
            self.cache.check_folder()
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._descriptors).atexit = False
        self._wanted: queue.SimpleQueue[int] | None = None

    def key(self, sample: int) -> str:
        return key_text(self.index.records[sample]["key"])

    def shard_name(self, sample: int) -> str:
        """Return path or URL of a sample's shard, for messages."""
        return f"{public_url(self.index.folder)}/{self.index.shards[self._shard(sample)].name}"

    def image_bytes(self, sample: int, part: Literal["image", "image2"] = "image") -> bytes:
        return self._read(sample, part)

    def text(self, sample: int) -> str:
        """Return the text. Raises BadSampleError if it is not UTF-8, blank, holds a NUL, or is missing in its JSON."""
        content = self._read(sample, "text")
        if self.index.caption_key:
            return caption_in_json(content, self.index.caption_key)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise BadSampleError("text is not UTF-8") from error
        check_text(text)
        return text

    def texts(self, sample: int) -> tuple[str, ...]:
        """Return the texts of a sample: all captions of kind caption, else the one, if the kind has texts.

        Raises BadSampleError as `text` does.
        """
        if self.index.kind != "caption":
            return (self.text(sample),) if "text" in PARTS[self.index.kind] else ()
        annotation = self.annotation(sample)
        assert isinstance(annotation, CaptionAnnotation)
        return annotation.captions

    def annotation(self, sample: int) -> Annotation:
        """Return the annotation of a sample of a task. Raises BadSampleError if it is not sound."""
        return parse_annotation(self.index.kind, self._read(sample, "json"))

    def shard_size(self, sample: int) -> int:
        """Return the number of samples in the shard of this sample."""
        return self.index.shards[self._shard(sample)].num_samples

    def neighbor(self, sample: int) -> int:
        """Return the sample that replaces a bad one: the next in the same shard, or its first after its last."""
        shard = self._shard(sample)
        first, stop = self.index.shard_starts[shard : shard + 2]
        return sample + 1 if sample + 1 < stop else int(first)

    def look_ahead(self, shards: list[int]) -> None:
        """Fetch remote shards in the background. Errors show when the shards are read."""
        if self.cache is None:
            return
        if self._wanted is None:
            # started on first use, which is in the loader worker: a thread does not survive the fork
            self._wanted = queue.SimpleQueue()
            threading.Thread(target=self._fetch, args=(self.cache, self._wanted), daemon=True).start()
        for shard in shards:
            self._wanted.put(shard)

    def _fetch(self, cache: ShardCache, wanted: "queue.SimpleQueue[int]") -> None:
        """Fetch in a thread, one shard at a time, so that shards needed now keep most of the bandwidth."""
        while True:
            shard = self.index.shards[wanted.get()]
            with contextlib.suppress(OSError, ValueError):
                cache.fetch(f"{self.index.folder.rstrip('/')}/{shard.name}", shard.num_bytes, shard.sha256)

    def _shard(self, sample: int) -> int:
        """Return the shard of a sample by the counts, not by the sample's record, which may be damaged."""
        return int(np.searchsorted(self.index.shard_starts, sample, side="right")) - 1

    def _read(self, sample: int, part: PartName) -> bytes:
        """Return a member's bytes. Raises BadSampleError if they are too many or differ from the index."""
        record = self.index.records[sample]
        offset, size, crc32 = (int(value) for value in record[part])
        if size > self.max_member_bytes:
            raise BadSampleError(f"member exceeds max_member_bytes ({size} > {self.max_member_bytes})")
        shard = self._shard(sample)
        if offset + size > self.index.shards[shard].num_bytes:
            raise BadSampleError("member lies outside of its shard")
        content = self._pread(shard, size, offset)
        # a checksum per sample, not per shard: a run reads samples, and one flipped bit must not cost a whole shard
        if len(content) != size or zlib.crc32(content) != crc32:
            raise BadSampleError("bytes differ from the index")
        return content

    def _pread(self, shard: int, size: int, offset: int) -> bytes:
        """Read from a shard, with retries on local and network file systems; downloads have their own retries."""

        def read() -> bytes:
            try:
                return os.pread(self.open_shard(shard), size, offset)
            except OSError:
                if shard in self._descriptors:  # it may be stale (NFS): the next attempt opens the shard again
                    os.close(self._descriptors.pop(shard))
                raise

        return read() if self.cache is not None else with_retries(read, FileErrors((*PERMANENT_ERRNOS, errno.ENOENT)))

    def open_shard(self, shard: int) -> int:
        """Return a descriptor of a shard for pread; the least recently used one is closed if too many are open.

        Raises ShardMismatchError if the size differs from the index, OSError if the shard is gone.
        """
        if shard not in self._descriptors:
            if len(self._descriptors) >= (MAX_OPEN_SHARDS if self.cache is None else MAX_OPEN_COPIES):
                os.close(self._descriptors.popitem(last=False)[1])
            entry = self.index.shards[shard]
            path = f"{self.index.folder.rstrip('/')}/{entry.name}"
            if self.cache is not None:
                descriptor = self.cache.open(path, entry.num_bytes, entry.sha256)
            else:
                descriptor = os.open(path, os.O_RDONLY)
                if os.fstat(descriptor).st_size != entry.num_bytes:
                    os.close(descriptor)
                    raise ShardMismatchError(
                        f"shard {printable(path)} is not the one that was indexed; restore it or index again"
                    )
            self._descriptors[shard] = descriptor
        self._descriptors.move_to_end(shard)
        return self._descriptors[shard]


def _close(descriptors: OrderedDict[int, int]) -> None:
    """Close the shards of a reader that nobody uses any more."""
    while descriptors:
        os.close(descriptors.popitem()[1])
