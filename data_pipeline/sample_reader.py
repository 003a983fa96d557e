"""Random access to the bytes of a sample in a folder of shards."""

import os
import zlib
from collections import OrderedDict

import numpy as np

from data_pipeline.samples import BadSampleError
from data_pipeline.shard_index import ShardIndex

MAX_OPEN_SHARDS = 64


class SampleReader:
    """Reads members by offset. Safe to send to a worker process: files are opened there, on first use."""

    def __init__(self, index: ShardIndex, max_member_bytes: int):
        self.index = index
        self.max_member_bytes = max_member_bytes
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptors": OrderedDict()}

    def key(self, sample: int) -> str:
        return bytes(self.index.records[sample]["key"]).decode()

    def name(self, sample: int) -> str:
        """Shard and key, for reports."""
        shard = self.index.shards[self.index.records[sample]["shard"]]
        return f"{self.index.folder / shard.name}:{self.key(sample)}"

    def image_bytes(self, sample: int) -> bytes:
        return self._read(self.index.records[sample]["shard"], self.index.records[sample]["image"])

    def text(self, sample: int) -> str:
        try:
            return self._read(self.index.records[sample]["shard"], self.index.records[sample]["text"]).decode()
        except UnicodeDecodeError as error:
            raise BadSampleError(f"text is not UTF-8 ({error})") from error

    def shard_size(self, sample: int) -> int:
        """Number of samples in the shard of this one."""
        return self.index.shards[self.index.records[sample]["shard"]].num_samples

    def neighbor(self, sample: int) -> int:
        """The sample that stands in for a bad one: the next of the same shard, the first after the last."""
        following = sample + 1
        shard = self.index.records[sample]["shard"]
        if following < self.index.num_samples and self.index.records[following]["shard"] == shard:
            return following
        return int(np.searchsorted(self.index.records["shard"], shard))

    def _read(self, shard: int, member: np.void) -> bytes:
        """The member's bytes, checked. Raises BadSampleError where they are too many or not those indexed."""
        offset, size = int(member["offset"]), int(member["size"])
        if size > self.max_member_bytes:
            raise BadSampleError(f"member of {size} bytes exceeds max_member_bytes {self.max_member_bytes}")
        content = os.pread(self._descriptor(int(shard)), size, offset)
        if len(content) != size or zlib.crc32(content) != member["crc32"]:
            raise BadSampleError("bytes differ from the index")
        return content

    def _descriptor(self, shard: int) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            path = self.index.folder / self.index.shards[shard].name
            self._descriptors[shard] = os.open(path, os.O_RDONLY)
        self._descriptors.move_to_end(shard)
        return self._descriptors[shard]
