"""python -m data_pipeline.train_text_tokenizer OUT SOURCE... : train a SentencePiece model on captions and texts."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.files.retries import naming_write_errors
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.settings.command_line import run_command
from data_pipeline.settings.ranges import Count, Part, Size, check_ranges
from data_pipeline.shards.writer import HELD_OUT_FRACTION, checked_text, is_in_split
from data_pipeline.sources.readers import DRAWN, SourceOptions, read_records
from data_pipeline.texts.sentence_sample import draw_sentences
from data_pipeline.texts.sentencepiece_training import MAX_SENTENCES, ModelType, train_on_sentences
from data_pipeline.texts.tokenizer import UnknownShare, unknown_share

NUM_CHECKED = 10_000
"""Number of sentences whose share of <unk> is reported."""


@dataclass(frozen=True)
class TextTokenizerOptions:
    """Train a SentencePiece model with BEiT-3's ids."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Model file to write, such as tokenizer.spm. An existing file is never replaced: shards may depend on it."""
    sources: tyro.conf.Positional[tuple[str, ...]]
    """Sources as KIND=SOURCE, kind pair (captions) or text, as for write_shards. Only the training split is read."""
    vocab_size: Size = 64000
    """Number of pieces, including SentencePiece's three specials."""
    model_type: ModelType = "unigram"
    """Algorithm. BEiT-3 uses unigram; bpe keeps whole words even if there are only a few dozen."""
    max_sentences: Count = MAX_SENTENCES
    """Maximum number of sentences, drawn evenly from all sources. SentencePiece needs about twenty bytes of memory per
    byte of text."""
    held_out_fraction: Part = HELD_OUT_FRACTION
    """Fraction of each source that is held out and not read. Give write_shards the same."""
    columns: tyro.conf.OmitArgPrefixes[SourceOptions] = field(default_factory=SourceOptions)
    """Options for reading the sources."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main() -> None:
    run_command(TextTokenizerOptions, "data_pipeline.train_text_tokenizer", _train)


def _train(options: TextTokenizerOptions) -> str:
    if not options.sources:
        raise ValueError("there is no source; give pair=SOURCE or text=SOURCE after the model file")
    if options.out.exists():
        raise ValueError(
            f"{options.out} exists, and shards may have been written with it; give another name, or remove it first"
        )
    with naming_write_errors(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    sample = draw_sentences(_texts(options), options.max_sentences)
    drawn = f"{len(sample.sentences)} sentences"
    if sample.num_found > len(sample.sentences):
        drawn += f", drawn evenly from {sample.num_found} (--max-sentences)"
    tokenizer = train_on_sentences(sample.sentences, options.out, options.vocab_size, options.model_type)
    first = (unknown_share(tokenizer.encode(sentence)) for sentence in sample.sentences[:NUM_CHECKED])
    unknown = sum(first, start=UnknownShare())
    return f"{options.out}: {tokenizer.vocab_size} ids, <mask> is {tokenizer.mask_id}; trained on {drawn}; {unknown}"


def _texts(options: TextTokenizerOptions) -> Iterator[str]:
    kinds: dict[str, Kind] = {"pair": "pair", "text": "text"}
    for entry in options.sources:
        kind, _, source = entry.partition("=")
        if kind not in kinds or not source:
            raise ValueError(f"source {entry!r} must read pair=SOURCE or text=SOURCE")
        for record in read_records(kinds[kind], source, options.columns):
            if source.startswith(DRAWN) or is_in_split(record, options.held_out_fraction, "train"):
                with contextlib.suppress(BadSampleError):  # write_shards counts them
                    yield checked_text(record)


if __name__ == "__main__":
    main()
