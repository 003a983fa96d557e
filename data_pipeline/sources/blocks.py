"""Blocks of a source: the fixed ranges of records that become one shard each."""

import hashlib
from collections.abc import Iterable, Iterator

from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import Kind
from data_pipeline.samples.tasks import is_task

MOST_PROBLEMS = 10_000
"""Maximum number of bad records in a block."""
CHARACTERS_PER_TOKEN = 4
"""Rough average for English, used to give text shards about samples_per_shard passages."""


def blocks(records: Iterable[Record], samples_per_shard: int, text_length: int = 0) -> Iterator[list[Record]]:
    """Yield a source in blocks, one per shard: samples_per_shard samples, or texts of about as many passages.

    text_length: maximum tokens of a passage; 0 if samples are not passages. Bad records stay with their neighbors.
    """
    full = samples_per_shard * (text_length * CHARACTERS_PER_TOKEN or 1)
    block, size, num_problems = list[Record](), 0, 0
    for record in records:
        block.append(record)
        if record.problem is not None:
            num_problems += 1
        else:
            size += len(record.text or "") if text_length else 1
        if size >= full or num_problems >= MOST_PROBLEMS:
            yield block
            block, size, num_problems = [], 0, 0
    if block:
        yield block


def block_digest(block: list[Record], kind: Kind) -> str:
    """Return a digest of names and texts, of a task's annotations, and of problems by its list of answers or classes,
    which changes if the source changes after a shard was written."""
    digest = hashlib.sha256()
    for record in block:
        annotation = (record.metadata, record.problem) if is_task(kind) else ()
        digest.update(repr((record.name, record.caption_number, record.text, *annotation)).encode())
    return digest.hexdigest()[:32]
