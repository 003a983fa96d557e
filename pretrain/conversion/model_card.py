"""The cards beside converted weights: one JSON file for each, and a README.md that is written from all of them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.config import MultiwayConfig
from model.weight_files import read_json_object
from pretrain.formats.beit3 import decoupled
from pretrain.formats.beit3_loaders import exact_tasks, finetuning_command, torchscale_arguments, why_not_finetuned
from pretrain.formats.role import Role
from pretrain.formats.vocabulary import EXPORTED_NAME, Vocabulary, unused_rows

CARD_NAME = "card.json"
README_NAME = "README.md"
MADE_BY = "pretrain.convert"
README_TITLE = "# BEiT-3 weights written by pretrain.convert\n"
"""The first line, by which a file of ours is told from another."""
WITHOUT_TORCHVISION = """\
# if torchvision does not import (beside a CPU build of torch), first, in Imglish's environment:
# import pretrain.formats.cpu_torchvision
"""
TORCHSCALE = (
    "# pip install timm; pip install --no-deps torchscale fairscale\n"
    + WITHOUT_TORCHVISION
    + """\
import json, torch
from torchscale.architecture.config import EncoderConfig
from torchscale.model.BEiT3 import BEiT3
model = BEiT3(EncoderConfig(**json.load(open("{card}"))["torchscale"])).eval()
weights = torch.load("{file}", weights_only=True)["model"]
model.load_state_dict({{name[6:]: value for name, value in weights.items() if name.startswith("beit3.")}})"""
)
TIMM = (
    "# pip install timm\n"
    + WITHOUT_TORCHVISION
    + """\
import timm
tower = timm.create_model("local-dir:.", pretrained=True)"""
)
OURS = """\
from model import load_pretrained  # of the project that wrote them
model = load_pretrained(".")"""
PREPROCESSING = """\
Imglish puts transparent images on white, turns images as their EXIF orientation says, and normalises pixels with mean
and standard deviation 0.5. Microsoft's loader does neither of the first two, and its imagenet task normalises with
ImageNet's mean and standard deviation."""


def make_card(
    file: str,
    to: str,
    role: Role | None,
    config: MultiwayConfig,
    vocabulary: Vocabulary | None,
    difference: float | None,
) -> dict[str, Any]:
    """Return what is known of a file. Paths in it are relative to its folder."""
    card: dict[str, Any] = {
        "made_by": MADE_BY,
        "file": file,
        "format": to,
        "role": role,
        "largest_difference": difference,
        "model": asdict(config),
        "text_tokenizer": None,
    }
    if vocabulary is not None:
        card["text_tokenizer"] = {
            "file": EXPORTED_NAME,
            "sha256": vocabulary.sha256,
            "num_ids": vocabulary.num_ids,
            "unused_rows": unused_rows(vocabulary.num_ids, config),
        }
    if to == "beit3":
        assert role is not None
        tasks, reason = exact_tasks(config, role), why_not_finetuned(config)
        tokenizer = None if vocabulary is None else Path(EXPORTED_NAME)
        written = decoupled(config)
        card["exact_for"] = [task.name for task in tasks]
        card["torchscale"] = torchscale_arguments(written)
        card["not_finetuned"] = reason
        card["finetuning"] = (
            {} if reason else {task.name: finetuning_command(task, written, Path(file), tokenizer) for task in tasks}
        )
    return card


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
    sections = [_section(card) for card in sorted(cards, key=lambda card: str(card["file"]))]
    return "\n".join([README_TITLE, PREPROCESSING + "\n", *sections])


def _section(card: dict[str, Any]) -> str:
    lines = [f"## {card['file']}\n"]
    if "step" in card:
        lines.append(f"Step {card['step']} of the run, checkpoint {card['checkpoint']}.\n")
    if card.get("source"):
        lines.append(f"Converted from {card['source']}.\n")
    lines += _tokenizer_lines(card.get("text_tokenizer"))
    code = {"beit3": TORCHSCALE, "timm": TIMM, "safetensors": OURS}[card["format"]]
    if card["format"] == "beit3":
        lines.append(f"Role {card['role']}: exact for Microsoft's tasks {', '.join(card['exact_for'])}.\n")
        code = code.format(file=card["file"], card=Path(card["file"]).with_suffix(".json"))
    lines.append(f"In this folder:\n\n```python\n{code}\n```\n")
    if card.get("not_finetuned"):
        lines.append(f"Microsoft's finetuning code cannot load it: {card['not_finetuned']}.\n")
    if card.get("finetuning"):
        lines.append(
            "With Microsoft's finetuning code (DATA and RESULTS are folders of yours, TOKENIZER is the file of"
        )
        lines.append("your text tokenizer; then the options of its guide for the task):\n")
        lines.append("```bash\n" + "\n".join(card["finetuning"].values()) + "\n```\n")
    return "\n".join(lines)


def _tokenizer_lines(tokenizer: dict[str, Any] | None) -> list[str]:
    if tokenizer is None:
        return ["No text tokenizer was beside the source; the one that it was trained with belongs here.\n"]
    lines = [f"Text tokenizer: {tokenizer['file']}, {tokenizer['num_ids']} ids, SHA-256 {tokenizer['sha256']}.\n"]
    if tokenizer["unused_rows"]:
        lines.append(f"Note: {tokenizer['unused_rows']}.\n")
    return lines
