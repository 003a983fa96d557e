"""From a source to a folder of converted weights, and what is printed of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.conversion.export_folder import ExportFolder
from pretrain.conversion.model_card import README_NAME
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.source import (
    Source,
    beit3_source,
    checkpoint_source,
    readable,
    resized,
    safetensors_source,
    trimmed,
)
from pretrain.formats.beit3 import decoupled
from pretrain.formats.beit3_loaders import TASKS, exact_tasks, finetuning_command, inputs_of
from pretrain.formats.role import Role
from pretrain.formats.timm import import_timm
from pretrain.formats.vocabulary import EXPORTED_NAME, unused_rows

_FIRST = "" if torch.version.cuda is not None else " (here after `import pretrain.formats.cpu_torchvision`)"


@dataclass(frozen=True)
class Converted:
    """What was written."""

    path: Path
    """The weights."""
    largest_difference: float | None
    """Between outputs of the source and of what was written; None: not verified."""
    source: Source
    card: dict[str, Any]


def convert(options: ConvertOptions) -> Converted:
    """Write weights, tokenizer and cards.

    Raises ValueError or OSError, leaving OUT as it was, if the source is unsound, or the result cannot be written, or
    is not exact.
    """
    to = options.to or ("safetensors" if options.from_ == "beit3" else "beit3")
    role = check_role(to, options.role)
    check_uses(options, to)
    folder = ExportFolder(options.out, to, role)
    folder.check_is_free(options.source)
    source = open_source(options)
    if options.trim_vocab:
        source = trimmed(source)
    if options.image_size is not None:
        source = resized(source, options.image_size)
    folder.check_tokenizer(source.vocabulary)
    if options.verify and to == "timm":
        import_timm()  # fails at once if it is missing
    card = folder.write(source, options.verify)
    return Converted(folder.path, card["largest_difference"], source, card)


def check_role(to: str, role: Role | None) -> Role | None:
    """Return the role of a target. Raises ValueError for one that it cannot have."""
    if to == "safetensors":
        if role is not None:
            raise ValueError("safetensors hold every expert and serve every use; leave out --role")
        return None
    if to == "timm":
        if role not in (None, "vision"):
            raise ValueError(f"timm's image towers have no texts, so role {role!r} cannot be exact; use --role vision")
        return "vision"
    return role or "fusion"


def check_uses(options: ConvertOptions, to: str) -> None:
    """Raises ValueError for an option that the other options leave no use for."""
    if options.from_ != "beit3":
        for name, is_given in (("--num-heads", options.num_heads is not None), ("--new-heads", options.new_heads)):
            if is_given:
                raise ValueError(f"{name} is for --from beit3; other sources have all that it is about")
    if options.num_visual_tokens is not None and not options.new_heads:
        raise ValueError("--num-visual-tokens is for --new-heads; other files say how many they have")
    if options.trim_vocab and to == "timm":
        raise ValueError("timm's image towers have no words; leave out --trim-vocab")


def open_source(options: ConvertOptions) -> Source:
    """Open the source. Raises ValueError if it is not what --from says."""
    if options.from_ == "checkpoint":
        return readable(checkpoint_source(options.source))
    if options.from_ == "safetensors":
        return readable(safetensors_source(options.source))
    return readable(beit3_source(options.source, options.num_heads, options.new_heads, options.num_visual_tokens))


def report(converted: Converted) -> str:
    """Say what was written, from what, and what can load it."""
    path, card, difference = converted.path, converted.card, converted.largest_difference
    verified = "not verified" if difference is None else f"largest difference {difference:.1e}"
    lines = [f"{path}: {path.stat().st_size / 1e6:.1f} MB, from {converted.source.origin}, {verified}"]
    if card["format"] == "timm":
        lines.append(f'timm loads it{_FIRST}: timm.create_model("local-dir:{path.parent}", pretrained=True)')
    elif card["format"] == "safetensors":
        lines.append(f'loaded by model.load_pretrained("{path.parent}"), and as --initial-weights {path.parent}')
    else:
        lines += _loaders(converted)
    tokenizer = card["text_tokenizer"]
    if card["format"] != "timm" and tokenizer is not None:
        lines.append(f"text tokenizer: {path.with_name(tokenizer['file'])}, {tokenizer['num_ids']} ids")
        unused = unused_rows(tokenizer["num_ids"], converted.source.config, "--trim-vocab leaves them out")
        lines += [f"note: {unused}"] if unused else []
    lines += [f"note: {note}" for note in converted.source.notes]
    return "\n  ".join(lines)


def _loaders(converted: Converted) -> list[str]:
    """Say what loads a file of Microsoft's format, and which of their tasks its role is wrong for."""
    card, path, config = converted.card, converted.path, converted.source.config
    readme = path.with_name(README_NAME)
    arguments = path.with_suffix(".json")
    lines = [f"torchscale loads it{_FIRST}: BEiT3 with the arguments in {arguments}; {readme} has the lines"]
    tasks = exact_tasks(config, card["role"])
    exact = ", ".join(task.name for task in tasks)
    if card["not_finetuned"]:
        lines.append(f"Microsoft's finetuning code cannot load it: {card['not_finetuned']}")
    else:
        tokenizer = None if card["text_tokenizer"] is None else path.with_name(EXPORTED_NAME)
        command = finetuning_command(tasks[0], decoupled(config), path, tokenizer)
        lines.append(f"Microsoft's finetuning code loads it, here for {tasks[0].name}: {command}")
        lines.append(f"{readme} has the command lines of {exact}")
    wrong = [task for task in TASKS if task not in tasks]
    if wrong:
        right_inputs, wrong_inputs = inputs_of(card["role"])
        names = ", ".join(task.name for task in wrong)
        lines.append(
            f"role {card['role']} is exact for {right_inputs} ({exact}), wrong for {wrong_inputs} ({names}): for "
            f"those, --role {wrong[0].role}"
        )
    return lines
