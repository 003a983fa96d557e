"""Conversion from a source to a folder of weights, and the report that the command prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.conversion.export_folder import ExportFolder
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.source import Source, readable, resized, trimmed
from pretrain.conversion.sources import beit3_source, checkpoint_source, safetensors_source
from pretrain.conversion.target import Target
from pretrain.conversion.targets import TARGETS, target_of
from pretrain.formats.vocabulary import unused_rows


@dataclass(frozen=True)
class Converted:
    """Result of a conversion."""

    path: Path
    """The weights."""
    largest_difference: float | None
    """Largest difference between outputs of the source and of the written weights; None: not verified."""
    source: Source
    card: dict[str, Any]


def convert(options: ConvertOptions) -> Converted:
    """Write weights, tokenizer and cards.

    Raises ValueError or OSError, leaving OUT as it was, if the source is unsound, or if the result cannot be written or
    is not exact.
    """
    kind = TARGETS[options.to or ("safetensors" if options.from_ == "beit3" else "beit3")]
    check_uses(options, kind)
    source = open_source(options)
    target = kind.fitting(options.role, source.heads)
    folder = ExportFolder(options.out, target)
    for path in (options.source, *options.average):
        folder.check_is_free(path)
    if options.trim_vocab:
        source = trimmed(source)
    if options.image_size is not None:
        source = resized(source, options.image_size)
    folder.check_tokenizer(source.vocabulary)
    folder.check_labels(source.labels)
    folder.check_preprocessing(source.exported_preprocessing)
    if options.verify:
        target.check_verifiable()
    card = folder.write(source, options.verify)
    return Converted(folder.path, card["largest_difference"], source, card)


def check_uses(options: ConvertOptions, target: type[Target]) -> None:
    """Raise ValueError for an option that has no effect beside the other options."""
    if options.from_ != "beit3":
        for name, is_given in (("--num-heads", options.num_heads is not None), ("--new-heads", options.new_heads)):
            if is_given:
                raise ValueError(f"{name} is for --from beit3; other sources hold what it sets")
    if options.from_ != "checkpoint":
        for name, is_given in (("--weights", options.weights != "raw"), ("--average", bool(options.average))):
            if is_given:
                raise ValueError(f"{name} is for our checkpoints; leave it out for --from {options.from_}")
    if options.num_visual_tokens is not None and not options.new_heads:
        raise ValueError("--num-visual-tokens is for --new-heads; other files record their number")
    if options.trim_vocab and not target.has_words:
        raise ValueError(f"--to {target.name} writes no words; leave out --trim-vocab")


def open_source(options: ConvertOptions) -> Source:
    """Open the source. Raises ValueError if it is not of the kind given by --from."""
    if options.from_ == "checkpoint":
        return readable(checkpoint_source((options.source, *options.average), options.weights))
    if options.from_ == "safetensors":
        return readable(safetensors_source(options.source))
    return readable(beit3_source(options.source, options.num_heads, options.new_heads, options.num_visual_tokens))


def report(converted: Converted) -> str:
    """Return the lines that the command prints: the file, its source, and what can load it."""
    path, card, difference = converted.path, converted.card, converted.largest_difference
    verified = "not verified" if difference is None else f"largest difference {difference:.1e}"
    lines = [f"{path}: {path.stat().st_size / 1e6:.1f} MB, from {converted.source.origin}, {verified}"]
    target = target_of(card)
    lines += target.loaders(converted.source, path, card)
    lines += [f"note: {sentence}" for sentence in card["not_in_this_format"]]
    tokenizer = card["text_tokenizer"]
    if target.has_words and tokenizer is not None:
        lines.append(f"text tokenizer: {path.with_name(tokenizer['file'])}, {tokenizer['num_ids']} ids")
        source, remedy = converted.source, "--trim-vocab leaves them out"
        unused = unused_rows(tokenizer["num_ids"], source.config, remedy, source.heads)
        lines += [f"note: {unused}"] if unused else []
    lines += [f"note: {note}" for note in converted.source.notes]
    return "\n  ".join(lines)
