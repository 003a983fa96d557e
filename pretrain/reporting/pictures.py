"""The galleries of a run: what its newest checkpoint makes of held-out samples.

Each gallery is a module of its own: hidden patches and words of a pretraining run, retrieval of a contrastive one,
answers of a finetuning run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pretrain.checkpoints.reader import Checkpoint
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.reporting.caption_gallery import ShownCaption, caption_gallery
from pretrain.reporting.options import ReportOptions
from pretrain.reporting.patch_gallery import PatchGallery, patch_gallery
from pretrain.reporting.retrieval_gallery import RetrievalGallery, retrieval_gallery
from pretrain.reporting.run_files import RunFiles
from pretrain.reporting.task_gallery import ShownAnswer, task_gallery

Gallery = TypeVar("Gallery")


@dataclass(frozen=True)
class Pictures:
    """The galleries of one run; `missing` has a sentence for each that could not be drawn."""

    run: str
    step: int = 0
    patches: PatchGallery | None = None
    captions: list[ShownCaption] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    retrieval: RetrievalGallery | None = None
    answers: list[ShownAnswer] = field(default_factory=list)


def pictures_of(run: RunFiles, options: ReportOptions) -> Pictures:
    """Return the galleries of a run's newest checkpoint. What is missing for one is reported in its place."""
    missing: list[str] = []
    if not (run.folder / "checkpoints").is_dir():
        return Pictures(run.name, missing=[f"No pictures: {run.folder} has no checkpoints."])
    found = _tried(lambda: find_checkpoint(run.folder), "pictures", missing)
    folder = held_out_folder(run, options)
    if folder is None:
        missing.append(
            "No pictures: the run was not evaluated on local shards of held-out pairs or images, or of its task; give "
            "some with --held-out FOLDER."
        )
    if found is None or folder is None:
        return Pictures(run.name, missing=missing)
    if isinstance(found.config, FinetuneConfig):
        answers = _tried(lambda: task_gallery(found.folder, folder, options.num_images), "answers", missing)
        return Pictures(run.name, found.step, missing=missing, answers=answers or [])
    if isinstance(found.config, ContrastConfig):
        return _pictures_of_contrast(run.name, found, folder, options, missing)
    return _pictures_of_pretraining(run.name, found, folder, options, missing)


def _pictures_of_pretraining(
    name: str, found: Checkpoint[Any], folder: Path, options: ReportOptions, missing: list[str]
) -> Pictures:
    model = _tried(lambda: load_model(found), "pictures", missing)
    if model is None:
        return Pictures(name, found.step, missing=missing)
    num = options.num_images
    patches = _tried(
        lambda: patch_gallery(found, model, folder, num, options.num_example_images, options.visual_tokenizer),
        "hidden patches", missing,
    )  # fmt: skip
    captions = _tried(lambda: caption_gallery(found, model, folder, num), "captions", missing)
    return Pictures(name, found.step, patches, captions or [], missing)


def _pictures_of_contrast(
    name: str, found: Checkpoint[Any], folder: Path, options: ReportOptions, missing: list[str]
) -> Pictures:
    gallery = _tried(
        lambda: retrieval_gallery(found, load_model(found), folder, options.num_images), "retrieval", missing
    )
    return Pictures(name, found.step, missing=missing, retrieval=gallery)


def held_out_folder(run: RunFiles, options: ReportOptions) -> Path | None:
    """Return the shards to take pictures from: the given ones, or local ones that the run is evaluated on."""
    if options.held_out is not None:
        return options.held_out
    places = (("evaluation", "pairs"), ("evaluation", "images"), ("data", "held_out"))
    settings = ((run.config.get(group), name) for group, name in places)
    named = [group.get(name) for group, name in settings if isinstance(group, dict)]
    return next((Path(name) for name in named if isinstance(name, str) and Path(name).exists()), None)


def _tried(draw: Callable[[], Gallery], name: str, missing: list[str]) -> Gallery | None:
    """Return what `draw` returns; if it raises ValueError or OSError, None, with the reason in `missing`."""
    try:
        return draw()
    except (ValueError, OSError) as error:
        missing.append(f"No {name}: {error}.")
        return None
