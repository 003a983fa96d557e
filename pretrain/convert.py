"""Convert weights between our checkpoints and the formats of others.

    python -m pretrain.convert RUN_OR_CHECKPOINT OUT                   Microsoft's file, role fusion
    python -m pretrain.convert RUN_OR_CHECKPOINT OUT --role dual       see pretrain/formats/beit3.py for roles
    python -m pretrain.convert RUN_OR_CHECKPOINT OUT --to timm         timm.create_model("local-dir:OUT")
    python -m pretrain.convert RUN_OR_CHECKPOINT OUT --to safetensors  model.load_pretrained("OUT")
    python -m pretrain.convert beit3_base_patch16_224.pth OUT --from beit3

A folder of safetensors is a source as well (--from safetensors), and what `initial_weights` of a recipe takes. Beside
the weights lie the text tokenizer, where the source has one, and a card that says where they come from. What was
written is loaded again and compared with the source on random inputs.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor

from data_pipeline.command_line import run_command
from model.config import MultiwayConfig
from model.embeddings import interpolate_positions
from model.pretrained import load_pretrained, read_config, save_pretrained
from pretrain.checkpoint import TEXT_TOKENIZER_NAME
from pretrain.config import config_to_json
from pretrain.formats.beit3 import Role, config_of, decoupled_weights, load_beit3, save_beit3
from pretrain.formats.timm import import_timm, save_timm
from pretrain.verify import TOLERANCE, largest_difference
from pretrain.weights import checkpoint_weights, find_checkpoint

CARD_NAME = "card.json"


@dataclass(frozen=True)
class ConvertOptions:
    """Convert weights between our checkpoints and the formats of others."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run, whose newest checkpoint is taken, a checkpoint folder, or what --from says."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write into."""
    to: Literal["beit3", "timm", "safetensors"] | None = None
    """Format to write. None: safetensors for --from beit3, else beit3."""
    from_: Annotated[Literal["checkpoint", "beit3", "safetensors"], tyro.conf.arg(name="from")] = "checkpoint"
    """What the source is: our checkpoint, Microsoft's file, or a folder that --to safetensors wrote."""
    role: Role | None = None
    """The use that the file must be exact for: image-text pairs (fusion), images alone and texts alone (dual), one of
    them (vision, text). None: fusion for --to beit3, vision for --to timm."""
    image_size: int | None = None
    """Interpolate the image positions for this size in pixels."""
    num_heads: int | None = None
    """Attention heads, for --from beit3 and a width that is not a published one."""
    verify: bool = True
    """Load what was written and compare it with the source."""


@dataclass(frozen=True)
class Source:
    """Weights to convert."""

    config: MultiwayConfig
    weights: Callable[[], Iterator[tuple[str, Tensor]]]
    """Each parameter of a MaskedDataModel; can be asked for again."""
    text_tokenizer: Path
    """May be missing."""
    provenance: dict[str, Any]


def main() -> None:
    run_command(ConvertOptions, "pretrain.convert", _convert)


def _convert(options: ConvertOptions) -> str:
    path, difference = convert(options)
    verified = "not verified" if difference is None else f"largest difference {difference:.1e}"
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB, {verified}"


def convert(options: ConvertOptions) -> tuple[Path, float | None]:
    """Write weights, tokenizer and card. Returns the path of the weights and the largest difference found.

    Raises ValueError where the source is unsound, or the result cannot be or is not exact.
    """
    to = options.to or ("safetensors" if options.from_ == "beit3" else "beit3")
    role = check_role(to, options.role)
    source = open_source(options)
    if options.image_size is not None:
        source = resized(source, options.image_size)
    if options.verify and to == "timm":
        import_timm()  # before anything is written
    options.out.mkdir(parents=True, exist_ok=True)
    if to == "beit3":
        path = save_beit3(source.weights(), source.config, role or "fusion", options.out)
    elif to == "timm":
        path = save_timm(source.weights(), source.config, options.out)
    else:
        path = save_pretrained(dict(source.weights()), source.config, options.out)
    difference = None
    if options.verify:
        difference = largest_difference(to, role, path, source.config, source.weights)
        if not difference <= TOLERANCE:
            path.unlink()
            raise ValueError(f"{path} differed from its source by {difference:.1e}, more than {TOLERANCE}; deleted")
    if source.text_tokenizer.is_file():
        shutil.copy(source.text_tokenizer, options.out / TEXT_TOKENIZER_NAME)
    card = {"format": to, "role": role, "largest_difference": difference, **source.provenance}
    card_path = path.with_suffix(".json") if to == "beit3" else options.out / CARD_NAME
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    return path, difference


def check_role(to: str, role: Role | None) -> Role | None:
    """The role of a target. Raises ValueError for one that it cannot have."""
    if to == "safetensors":
        if role is not None:
            raise ValueError("safetensors hold every expert and serve every use; leave out --role")
        return None
    if to == "timm":
        if role not in (None, "vision"):
            raise ValueError(f"timm's image towers have no texts, so role {role!r} cannot be exact; use --role vision")
        return "vision"
    return role or "fusion"


def open_source(options: ConvertOptions) -> Source:
    """Raises ValueError where it is not what --from says."""
    path = options.source
    if options.from_ == "checkpoint":
        if path.is_file():
            raise ValueError(f"{path} is a file, no run or checkpoint folder; Microsoft's files need --from beit3")
        checkpoint = find_checkpoint(path)
        provenance = {
            "checkpoint": checkpoint.folder.name,
            "step": checkpoint.step,
            "data_fingerprints": checkpoint.data_fingerprints,
            "config": json.loads(config_to_json(checkpoint.config)),
        }
        return Source(
            checkpoint.config.model, lambda: checkpoint_weights(checkpoint), checkpoint.text_tokenizer, provenance
        )
    if options.from_ == "safetensors":
        card = path / CARD_NAME
        provenance = json.loads(card.read_text()) if card.is_file() else {}
        config = read_config(path)
        return Source(
            config,
            lambda: ((name, p.detach()) for name, p in load_pretrained(path).named_parameters()),
            path / TEXT_TOKENIZER_NAME,
            {"source": path.name, "source_card": provenance},
        )
    config = config_of(load_beit3(path, is_mapped=True), options.num_heads)
    return Source(
        config,
        lambda: decoupled_weights(load_beit3(path), config),
        path.with_name(TEXT_TOKENIZER_NAME),
        {"source": path.name},
    )


def resized(source: Source, image_size: int) -> Source:
    """The same weights for images of another size. Raises ValueError where patches do not divide it."""
    config = replace(source.config, image_size=image_size)

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in source.weights():
            if name == "encoder.vision_embed.pos_embed":
                tensor = interpolate_positions(tensor, (config.grid_size, config.grid_size))
            yield name, tensor

    return replace(source, config=config, weights=weights, provenance={**source.provenance, "image_size": image_size})


if __name__ == "__main__":
    main()
