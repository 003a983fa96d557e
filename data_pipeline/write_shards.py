"""python -m data_pipeline.write_shards KIND SOURCE OUT : WebDataset shards and their index from raw data."""

import io
import itertools
import json
import re
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.command_line import run_command
from data_pipeline.samples import Kind, Sample
from data_pipeline.scenes import Split
from data_pipeline.shard_index import ShardIndex, write_index
from data_pipeline.sources import read_source
from data_pipeline.text_tokenizer import TextTokenizer

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class ShardOptions:
    """Write WebDataset shards with an index.

    Sources: of images a folder, or the "image" paths of a .jsonl file; of pairs a .jsonl file with "image" and
    "caption"; of texts a .jsonl file with "text", or a .txt file, a document a line; of each, scenes:COUNT[:SEED].
    """

    kind: tyro.conf.Positional[Kind]
    """What a sample is."""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder of images, a .jsonl or .txt file, or scenes:COUNT[:SEED] for drawn scenes."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write; must hold no shards yet."""
    samples_per_shard: int = 1000
    """Samples in a shard; the last one may hold fewer."""
    split: Split = "train"
    """Which part of the source."""
    held_out_fraction: float = 0.1
    """Part of a file source that is held out, by a hash of the key. Scenes are held out by composition."""
    text_tokenizer: Path | None = None
    """Kind text: the SentencePiece model that counts tokens."""
    text_length: int = 512
    """Kind text: pack whole sentences to passages of up to so many tokens, <s> and </s> included."""


def main() -> None:
    run_command(ShardOptions, "data_pipeline.write_shards", _write)


def _write(options: ShardOptions) -> str:
    index = write_shards(options)
    return f"{options.out}: {index.num_samples} samples in {len(index.shards)} shards"


def write_shards(options: ShardOptions) -> ShardIndex:
    """Write the shards and the index that `options` ask for.

    Raises ValueError for a source without samples or a folder that holds shards already. What fails leaves no shard.
    """
    if options.samples_per_shard < 1:
        raise ValueError(f"samples_per_shard {options.samples_per_shard} must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.glob("*.tar")):
        raise ValueError(f"{options.out} holds shards already; give a new folder or delete it")
    samples = read_source(options.kind, options.source, options.split, options.held_out_fraction)
    if options.kind == "text":
        if options.text_tokenizer is None:
            raise ValueError("kind text needs --text-tokenizer, a SentencePiece model, to count tokens")
        samples = pack_passages(samples, TextTokenizer(options.text_tokenizer), options.text_length)
    try:
        _write_tars(_with_progress(samples), options.out, options.samples_per_shard)
        return write_index(options.out, options.kind)
    except BaseException:
        for shard in options.out.glob("*.tar"):
            shard.unlink()
        raise


def pack_passages(documents: Iterable[Sample], tokenizer: TextTokenizer, text_length: int) -> Iterator[Sample]:
    """Whole sentences of consecutive documents, joined to passages of at most text_length ids with <s> and </s>.

    A sentence longer than that becomes a passage of its own, which the reader cuts.
    """
    room = text_length - 2
    passage: list[str] = []
    used, number, key = 0, 0, ""
    for document in documents:
        assert document.text is not None
        for sentence in SENTENCE_END.split(document.text):
            length = len(tokenizer.encode(sentence))
            if length == 0:
                continue
            if passage and used + length > room:
                yield Sample(key=f"{key}_{number:08d}", text=" ".join(passage))
                passage, used, number = [], 0, number + 1
            if not passage:
                key = document.key
            passage.append(sentence)
            used += length
    if passage:
        yield Sample(key=f"{key}_{number:08d}", text=" ".join(passage))


def _write_tars(samples: Iterable[Sample], folder: Path, samples_per_shard: int) -> None:
    remaining = iter(samples)
    for number, first in enumerate(remaining):
        with tarfile.open(folder / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in itertools.chain([first], itertools.islice(remaining, samples_per_shard - 1)):
                if sample.image is not None:
                    _add(tar, f"{sample.key}.{sample.image_extension}", sample.image)
                if sample.text is not None:
                    _add(tar, f"{sample.key}.txt", sample.text.encode())
                if sample.metadata:
                    _add(tar, f"{sample.key}.json", json.dumps(sample.metadata).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without time and owner, so that equal samples give equal shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _with_progress(samples: Iterable[Sample]) -> Iterator[Sample]:
    start = last = time.monotonic()
    for number, sample in enumerate(samples):
        yield sample
        now = time.monotonic()
        if now - last > PROGRESS_SECONDS:
            print(f"  {number + 1} samples, {(number + 1) / (now - start):.0f} a second", flush=True)
            last = now


if __name__ == "__main__":
    main()
