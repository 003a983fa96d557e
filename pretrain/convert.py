"""Convert weights between our checkpoints and the formats of others.

    python -m pretrain.convert RUN OUT                   Microsoft's file, role fusion
    python -m pretrain.convert RUN OUT --role dual       see pretrain/formats/beit3.py for roles
    python -m pretrain.convert RUN OUT --to timm         timm.create_model("local-dir:OUT", pretrained=True)
    python -m pretrain.convert RUN OUT --to safetensors  model.load_pretrained("OUT")
    python -m pretrain.convert beit3_base_patch16_224.pth OUT --from beit3

A folder of safetensors is a source as well (--from safetensors), and what `initial_weights` of a recipe takes. Beside
the weights lie the text tokenizer, where the source has one, and a card that says where they come from. What was
written is loaded again and compared with the source, every tensor and the outputs on random inputs.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor

from data_pipeline.command_line import run_command
from model.config import MultiwayConfig
from model.embeddings import interpolate_positions
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME, load_pretrained, read_config, save_pretrained
from pretrain.checkpoint import TEXT_TOKENIZER_NAME
from pretrain.formats.beit3 import Role, config_of, decoupled_weights, load_beit3, save_beit3
from pretrain.formats.timm import import_timm, save_timm
from pretrain.manifest import MANIFEST_NAME
from pretrain.run_config import config_to_json
from pretrain.verify import TOLERANCE, largest_difference
from pretrain.weights import checkpoint_weights, find_checkpoint
from settings.ranges import Side, Size, check_ranges

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
    image_size: Side | None = None
    """Interpolate the image positions for this size in pixels."""
    num_heads: Size | None = None
    """Attention heads, for --from beit3 where sizes are not published ones and no card lies beside the file."""
    verify: bool = True
    """Load what was written and compare it with the source."""

    def __post_init__(self) -> None:
        check_ranges(self)


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

    Raises ValueError, leaving OUT as it was, where the source is unsound, or the result cannot be or is not exact.
    """
    to = options.to or ("safetensors" if options.from_ == "beit3" else "beit3")
    role = check_role(to, options.role)
    check_out(to, options.out)
    source = open_source(options)
    if options.image_size is not None:
        source = resized(source, options.image_size)
    if options.verify and to == "timm":
        import_timm()  # tells at once where it is missing
    partial = options.out / f".partial-{to}-{role}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        difference = write(options, to, role, source, partial)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == CONFIG_NAME):  # config.json last
            file.replace(options.out / file.name)
    finally:
        shutil.rmtree(partial)
        if not any(options.out.iterdir()):
            options.out.rmdir()
    return options.out / weights_name(to, role), difference


def write(options: ConvertOptions, to: str, role: Role | None, source: Source, folder: Path) -> float | None:
    """Fill a new folder; returns the largest difference, None where it is not to be verified."""
    path = folder / weights_name(to, role)
    if to == "beit3":
        save_beit3(source.weights(), source.config, role or "fusion", path)
    elif to == "timm":
        save_timm(source.weights(), source.config, folder)
    else:
        save_pretrained(dict(source.weights()), source.config, folder)
    difference = None
    if options.verify:
        difference = largest_difference(to, role, path, source.config, source.weights)
        if not difference <= TOLERANCE:
            raise ValueError(f"{path.name} differs from its source by {difference:.1e}, more than {TOLERANCE}")
    if source.text_tokenizer.is_file():
        shutil.copy(source.text_tokenizer, folder / TEXT_TOKENIZER_NAME)
    card = {"format": to, "role": role, "largest_difference": difference, "model": asdict(source.config)}
    card_name = path.with_suffix(".json").name if to == "beit3" else CARD_NAME
    (folder / card_name).write_text(json.dumps({**card, **source.provenance}, indent=2) + "\n")
    return difference


def weights_name(to: str, role: Role | None) -> str:
    """The file that holds the weights."""
    return f"beit3_{role}.pth" if to == "beit3" else WEIGHTS_NAME


def check_out(to: str, out: Path) -> None:
    """Raises ValueError where writing there would put one thing in the place of another."""
    if (out / "checkpoints").is_dir() or (out / MANIFEST_NAME).is_file():
        raise ValueError(f"{out} is a run or a checkpoint; give another folder to write into")
    card = out / CARD_NAME
    held = json.loads(card.read_text()).get("format") if card.is_file() else None
    if to != "beit3" and (out / CONFIG_NAME).exists() and held != to:
        raise ValueError(f"{out} holds {held or 'something else'} already; give another folder to write into")


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
    if options.num_heads is not None and options.from_ != "beit3":
        raise ValueError("--num-heads is for --from beit3; the others say how many they have")
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
            checkpoint.config.model,
            lambda: checkpoint_weights(checkpoint.folder),
            checkpoint.text_tokenizer,
            provenance,
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
    config = config_of(load_beit3(path, is_mapped=True), num_heads_of(options))
    return Source(
        config,
        lambda: decoupled_weights(load_beit3(path), config),
        path.with_name(TEXT_TOKENIZER_NAME),
        {"source": path.name},
    )


def num_heads_of(options: ConvertOptions) -> int | None:
    """From the option or the card that our converter put beside the file. Raises ValueError where they differ."""
    card = options.source.with_suffix(".json")
    if not card.is_file():
        return options.num_heads
    num_heads: int | None = json.loads(card.read_text()).get("model", {}).get("num_heads")
    if None not in (num_heads, options.num_heads) and num_heads != options.num_heads:
        raise ValueError(f"{card} says {num_heads} heads, --num-heads {options.num_heads}; leave it out")
    return num_heads or options.num_heads


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
