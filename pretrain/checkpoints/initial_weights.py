"""Weights that a new run starts from: those of a run, of one of its checkpoints, of a folder of pretrain.convert, or of
a file of Microsoft's.

A dual encoder or the network of a task starts from masked data modeling, which lacks its head, or from any other kind
of run, and leaves the heads that it does not have; so weights are loaded by name, and only heads, and the final norm
that some tasks do without, may be on one side alone.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data_pipeline.files.hashing import file_sha256
from data_pipeline.samples.answers import read_list_beside
from data_pipeline.samples.sample import Kind
from model.config import MultiwayConfig
from model.embeddings import POSITION_OFFSET, interpolate_positions
from model.pretrained import WEIGHTS_NAME, read_config
from model.weight_checks import check_weight
from model.weight_files import read_safetensors
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.manifest import MANIFEST_NAME, has_manifest
from pretrain.checkpoints.reader import complete_folders
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.run_config import EncoderRunConfig
from pretrain.formats.beit3 import decoupled_weights
from pretrain.formats.beit3_contents import NUM_HEADS, TEXT_POSITIONS, config_of
from pretrain.formats.beit3_file import load_beit3, tokenizer_sha256
from pretrain.formats.beit3_tasks import heads_of
from pretrain.formats.vocabulary import fingerprint_in, tokenizer_beside

TASK_HEADS = ("pooler.", "head.", "fc_norm.")
"""Beginnings of the names of the heads of tasks: a list of other answers or classes gives them another shape."""
HEADS = ("mim_head.", "mlm_head.", "vision_head.", "language_head.", "logit_scale", "logit_bias", *TASK_HEADS)
"""Beginnings of the names of parameters beside the encoder, in any kind of network."""
LABEL_ROWS = ("head.3.", "head.weight", "head.bias")
"""Beginnings of the names of what has a row per answer (vqa) or class (classify), meaningless with another list."""
LOGITS = ("logit_scale", "logit_bias")
"""Parameters that belong together: the scale that the softmax loss learned is not that of the sigmoid loss."""
FINAL_NORM = "encoder.norm."
"""Beginning of the names of the final norm's parameters, which networks of vqa and classify do not have."""
POSITIONS = "encoder.vision_embed.pos_embed"
SOURCES = (
    "give a run, a checkpoint folder, RUN/checkpoints/best, a folder that pretrain.convert --to safetensors wrote, or "
    "a file of Microsoft's"
)
"""Remedy of a source that holds no weights."""
ALWAYS_FREE = {"drop_path_rate", "init_std", "embed_init_std"}
"""Fields of MultiwayConfig that no weight depends on."""


@dataclass(frozen=True)
class InitialWeights:
    """Weights that were found, before they are read."""

    folder: Path
    """Folder of the weights: a checkpoint's, or that of an export; or a file of Microsoft's."""
    config: MultiwayConfig
    weights: Callable[[], Iterable[tuple[str, Tensor]]]
    """Function that yields each of them with its name in state dicts. Raises ValueError or OSError."""
    words: str
    """The text tokenizer that they were trained with, in words."""
    words_sha256: str | None
    """Its fingerprint; None if it is not known."""


def weights_of_new_run(config: EncoderRunConfig) -> InitialWeights | None:
    """Find the weights that a run starts from; None if it starts from random ones, or from a checkpoint of its own.

    Raises ValueError as `open_initial_weights`, OSError.
    """
    if config.initial_weights is None or not is_new_run(config.run_dir):
        return None
    return open_initial_weights(config.initial_weights, config.model)


def open_initial_weights(source: Path, model: MultiwayConfig) -> InitialWeights:
    """Find the weights of a run (those of its newest checkpoint), a checkpoint, RUN/checkpoints/best, a folder that
    pretrain.convert --to safetensors wrote, or a file of Microsoft's. Raises ValueError if it is none of them.

    model: the network that starts from them, which knows what such a file does not record.
    """
    source = resolve_best(source)
    if not source.exists():
        raise ValueError(f"initial_weights {source} does not exist; {SOURCES}, or None for random weights")
    if source.name == WEIGHTS_NAME and source.is_file():
        raise ValueError(f"initial_weights {source} is one file of an export; give its folder, {source.parent}")
    if source.is_file():
        return _of_microsoft(source, model)
    if (source / WEIGHTS_NAME).is_file():
        return _of_export(source)
    if not ((source / "checkpoints").is_dir() or has_manifest(source)):
        raise ValueError(f"initial_weights {source} is a folder without weights; {SOURCES}")
    try:
        checkpoint = find_checkpoint(source)
    except ValueError as error:
        raise ValueError(f"initial_weights: {error}") from None
    tokenizer = checkpoint.text_tokenizer
    return InitialWeights(
        checkpoint.folder,
        checkpoint.config.model,
        lambda: checkpoint_weights(checkpoint),
        str(tokenizer),
        file_sha256(tokenizer) if tokenizer.is_file() else None,
    )


def _of_export(folder: Path) -> InitialWeights:
    path = folder / WEIGHTS_NAME
    beside, fingerprint = tokenizer_beside(folder), fingerprint_in(path)
    if fingerprint is None and beside is not None:
        fingerprint = file_sha256(beside)
    words = str(beside) if beside is not None else f"a text tokenizer with SHA-256 {fingerprint}"
    return InitialWeights(folder, read_config(folder), lambda: read_safetensors(path).items(), words, fingerprint)


def _of_microsoft(path: Path, model: MultiwayConfig) -> InitialWeights:
    entries = load_beit3(path, is_mapped=True)  # mapped: names and shapes are enough here
    is_published = (model.dim, model.depth, model.ffn_dim) in NUM_HEADS
    positions, num_rows = entries.get(TEXT_POSITIONS), model.max_text_length + POSITION_OFFSET
    is_padded = positions is not None and len(positions) > num_rows and not positions[num_rows:].any()  # by --to beit3
    max_text_length = model.max_text_length if is_padded else None
    config = config_of(
        entries, None if is_published else model.num_heads, max_text_length, model.num_visual_tokens, owner=path
    )
    heads, fingerprint = heads_of(entries, path), tokenizer_sha256(path)
    beside = tokenizer_beside(path.parent, fingerprint, is_microsofts=fingerprint is None)
    if fingerprint is None and beside is not None:
        fingerprint = file_sha256(beside)
    return InitialWeights(
        path,
        config,
        lambda: decoupled_weights(load_beit3(path), config, owner=path, heads=heads),
        str(beside) if beside is not None else f"a text tokenizer with SHA-256 {fingerprint}",
        fingerprint,
    )


def labels_there(found: InitialWeights, task_kind: Kind) -> list[str] | None:
    """Return the answers or classes of the weights, from the list beside them; None if there is no list.

    Raises ValueError if it is damaged.
    """
    return read_list_beside(found.folder if found.folder.is_dir() else found.folder.parent, task_kind)


def is_new_run(run_dir: Path) -> bool:
    """Return whether a run has no complete checkpoint yet, and so needs its initial weights.

    A resumed run must not depend on them: the run that they are from may have gone on, or be gone. Raises OSError.
    """
    return not complete_folders(run_dir / "checkpoints")


def weights_file(source: Path) -> Path:
    """Return a file that changes whenever the weights of a source do: the weights themselves, or the manifest of the
    run's newest checkpoint, which has the fingerprints of all its files."""
    source = resolve_best(source)
    if source.is_file():
        return source
    if (source / "checkpoints").is_dir():
        newest = complete_folders(source / "checkpoints")[-1:]
        return (newest[0] if newest else source) / MANIFEST_NAME
    return source / (WEIGHTS_NAME if (source / WEIGHTS_NAME).is_file() else MANIFEST_NAME)


def check_initial_weights(
    found: InitialWeights, model: MultiwayConfig, text_tokenizer: Path | None, free: Collection[str] = ()
) -> None:
    """Raise ValueError, listing the differences, if the weights do not fit a run of that network and text tokenizer.

    text_tokenizer: None for a run without texts; free: fields of MultiwayConfig that may differ, beside ALWAYS_FREE.
    """
    there, here = asdict(found.config), asdict(model)
    differences = [
        f"model.{name} is {there[name]} there, {here[name]} here"
        for name in here
        if name not in ALWAYS_FREE | set(free) and there[name] != here[name]
    ]
    if text_tokenizer is not None and found.words_sha256 not in (None, file_sha256(text_tokenizer)):
        differences.append(
            f"its words are those of {found.words}, not of {text_tokenizer}: give the former as data.text_tokenizer"
        )
    if differences:
        raise ValueError(f"initial_weights {found.folder} do not fit: {'; '.join(differences)}")


@torch.no_grad()
def load_initial_weights(
    found: InitialWeights, network: nn.Module, may_lack: tuple[str, ...] = (), left_out: tuple[str, ...] = ()
) -> list[str]:
    """Copy the weights into a network; image positions are interpolated to its number of patches.

    may_lack: beginnings of names that may be missing; those parameters keep their values, as do those whose names begin
    as left_out says, of parameters that may be missing. Heads, or a final norm, that
    the network does not have are left out, and so is the head of a task with another number of answers or classes.
    Returns the names that were missing. Raises ValueError, naming the parameter, if another one is missing or unknown,
    has another shape, or is not finite; OSError.
    """
    own, logits = network.state_dict(), dict[str, Tensor]()  # views, of stacked parameters too
    for name, tensor in _resized(found.weights(), own):
        if name in LOGITS:
            logits[name] = tensor
        elif name in own and not name.startswith(left_out) and not _is_another_head(name, tensor, own[name]):
            check_weight(found.folder, name, tensor, own[name].shape)
            own.pop(name).copy_(tensor)
        elif not name.startswith((*HEADS, FINAL_NORM)):
            raise ValueError(f"initial_weights {found.folder} have {name}, which the network does not have")
    if logits.keys() == own.keys() & set(LOGITS):
        for name, tensor in logits.items():
            check_weight(found.folder, name, tensor, own[name].shape)
            own.pop(name).copy_(tensor)
    if missing := [name for name in own if not name.startswith(may_lack)]:
        raise ValueError(
            f"initial_weights {found.folder} lack {', '.join(missing)}; give weights of masked data modeling"
        )
    return list(own)


def _is_another_head(name: str, tensor: Tensor, own: Tensor) -> bool:
    return name.startswith(TASK_HEADS) and tensor.shape != own.shape


def _resized(weights: Iterable[tuple[str, Tensor]], own: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the same weights with image positions for the network's number of patches."""
    for name, tensor in weights:
        if name == POSITIONS and tensor.shape != own[name].shape:
            side = math.isqrt(len(own[name]) - POSITION_OFFSET - 1)  # - 1: the class token
            tensor = interpolate_positions(tensor, (side, side))
        yield name, tensor
