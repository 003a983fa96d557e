"""Cards beside converted weights: one JSON file for each, and a README.md written from all of them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.config import USES
from model.pretrained import heads_entry
from model.weight_files import read_json_object
from pretrain.conversion.source import Source, in_words
from pretrain.conversion.target import Target
from pretrain.conversion.targets import target_of
from pretrain.formats.vocabulary import EXPORTED_NAME, unused_rows

MADE_BY = "pretrain.convert"
README_TITLE = "# BEiT-3 weights written by pretrain.convert\n"
"""First line, which tells a README.md of ours from any other."""
PREPROCESSING = """\
Imglish puts transparent images on white, applies the EXIF orientation, scales them to a square, and normalises pixels
with the mean and standard deviation in preprocessing.json, which has sizes and lengths too: 0.5, but ImageNet's for a
network of classify. Microsoft's loader does neither of the first two, and its imagenet task normalises with ImageNet's
mean and standard deviation."""


def make_card(target: Target, source: Source, difference: float | None) -> dict[str, Any]:
    """Return what is known of converted weights. Paths in it are relative to their folder."""
    card: dict[str, Any] = {
        "made_by": MADE_BY,
        "file": target.weights_name,
        "format": target.name,
        "role": target.role,
        "largest_difference": difference,
        "model": asdict(source.config),
        "heads": None if source.heads is None else heads_entry(source.heads),
        "not_in_this_format": target.left_out(source),
        "exact_uses": list(source.exact_uses),
        "text_tokenizer": None,
        "labels": None if source.labels is None else source.labels.name,
    }
    vocabulary = source.vocabulary
    if vocabulary is not None:
        card["text_tokenizer"] = {
            "file": EXPORTED_NAME,
            "sha256": vocabulary.sha256,
            "num_ids": vocabulary.num_ids,
            "unused_rows": unused_rows(vocabulary.num_ids, source.config, heads=source.heads),
        }
    return card | target.card_entries(source) | source.provenance


def read_card(path: Path) -> dict[str, Any]:
    """Read a card. Raises ValueError if the file is not one."""
    try:
        card = read_json_object(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    if not isinstance(card.get("model", {}), dict):
        raise ValueError(f"{path} is not a card of pretrain.convert; remove it, or give another folder")
    return card


def render_readme(cards: list[dict[str, Any]]) -> str:
    """Return the text of README.md for all the weights of a folder."""
    cards = sorted(cards, key=lambda card: str(card["file"]))
    front = "".join(target_of(card).readme_front(card) for card in cards)
    return front + "\n".join([README_TITLE, PREPROCESSING + "\n", *map(_section, cards)])


def is_readme(text: str) -> bool:
    """Return whether a README.md was written here: its title is ours, maybe after YAML."""
    return text.startswith(README_TITLE) or (text.startswith("---\n") and f"\n---\n{README_TITLE}" in text)


def _section(card: dict[str, Any]) -> str:
    lines = [f"## {card['file']}\n"]
    if "step" in card:
        lines.append(_origin_line(card))
    if card.get("source"):
        lines.append(f"Converted from {card['source']}.\n")
    if (uses := tuple(card.get("exact_uses", USES))) != USES:
        lines.append(f"Exact for {in_words(uses)} only: they come from a file that holds one role.\n")
    if new := card.get("new_heads"):
        lines.append(f"Initialized anew, not trained: {', '.join(new)}.\n")
    lines += _tokenizer_lines(card.get("text_tokenizer"))
    if card.get("labels"):
        lines.append(f"Meaning of each output of the head, in their order: {card['labels']}.\n")
    target = target_of(card)
    lines += target.readme_notes(card)
    lines += [f"{sentence[0].upper()}{sentence[1:]}.\n" for sentence in card.get("not_in_this_format", [])]
    lines.append(f"In this folder:\n\n```python\n{target.readme_code(card)}\n```\n")
    lines += target.readme_commands(card)
    return "\n".join(lines)


def _origin_line(card: dict[str, Any]) -> str:
    which = "Moving average of the weights" if card.get("weights") == "ema" else "Weights"
    if of := card.get("average_of"):
        return f"{which} of {len(of)} checkpoints, averaged: {', '.join(of)}.\n"
    return f"{which} of step {card['step']} of the run, checkpoint {card['checkpoint']}.\n"


def _tokenizer_lines(tokenizer: dict[str, Any] | None) -> list[str]:
    if tokenizer is None:
        return ["The source had no text tokenizer beside it; put the one that it was trained with here.\n"]
    lines = [f"Text tokenizer: {tokenizer['file']}, {tokenizer['num_ids']} ids, SHA-256 {tokenizer['sha256']}.\n"]
    if tokenizer["unused_rows"]:
        lines.append(f"Note: {tokenizer['unused_rows']}.\n")
    return lines
