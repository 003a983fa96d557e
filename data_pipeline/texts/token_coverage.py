"""Coverage of shards by a text tokenizer: the share of `<unk>` in texts drawn evenly from them."""

import numpy as np

from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import TextTokenizer, UnknownShare, unknown_share

NUM_TEXTS = 1000
"""Number of texts that are drawn."""
MAX_CHARACTERS = 10_000
"""Characters read per text: a run cuts texts to a few thousand, and whole books would delay its start by hours."""
NUM_REMOTE_SHARDS = 1
"""Number of remote shards that texts are drawn from: each is downloaded whole."""


def covered_share(reader: SampleReader, tokenizer: TextTokenizer, num_texts: int = NUM_TEXTS) -> UnknownShare:
    """Return the share of `<unk>` in the beginnings of texts of an index, the same texts in every call.

    Bad samples are skipped. Raises OSError if a shard is gone.
    """
    total = UnknownShare()
    for sample in _drawn(reader, num_texts):
        try:
            for text in reader.texts(int(sample)):
                total += unknown_share(tokenizer.encode(text[:MAX_CHARACTERS]))
        except BadSampleError:  # counted by the run or by check_shards
            continue
    return total


def _drawn(reader: SampleReader, num_texts: int) -> np.ndarray:
    """Return evenly spaced samples of all local shards or of the first remote ones, (at most num_texts,) int64."""
    num_samples = reader.index.num_samples
    if reader.cache is not None:
        num_samples = int(reader.index.shard_starts[min(NUM_REMOTE_SHARDS, len(reader.index.shards))])
    return np.unique(np.linspace(0, num_samples - 1, num_texts).astype(np.int64))
