"""Hidden patches of held-out images, and what the network predicts there: each code is shown by training patches.

A code is a number; nobody sees from "code 17" whether the guess is good. Patches of training images that the visual
tokenizer gives this code show what it stands for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.files.remote_files import is_remote
from data_pipeline.loading.config import parse_source
from model.masked_data_model import MaskedDataModel
from model.visual_tokenizer import VisualTokenizer
from pretrain.checkpoints.fingerprints import file_fingerprint
from pretrain.checkpoints.reader import Checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import image_inputs, read_held_out, training_masks
from pretrain.jobs.visual_tokens import load_visual_tokenizer, network_view, tokenizer_view, tokenizer_view_size
from pretrain.reporting.embedded import cut, data_uri, joined, stacked

NUM_EXAMPLES = 4
"""Training patches that stand for a code, each from another image."""
CHUNK = 32
GRAY = 128
"""Value of hidden patches in the network's view, and of codes without an example."""


@dataclass(frozen=True)
class HiddenPatch:
    """One hidden patch and the guess of its code."""

    number: int
    """Row of the patch in the gallery's picture of hidden patches."""
    true_code: int
    true_row: int
    """Row of the code in the gallery's picture of examples."""
    guessed_code: int
    guessed_row: int
    probability: float
    """The probability that the network gave the true code, 0..1."""

    @property
    def is_right(self) -> bool:
        return self.true_code == self.guessed_code


@dataclass(frozen=True)
class ShownImage:
    """One held-out image in four versions, as data URIs, and its hidden patches."""

    original: str
    hidden: str
    """As the network sees it."""
    guessed: str
    """Hidden patches replaced by a training patch of the guessed code."""
    true: str
    """Hidden patches replaced by a training patch of the true code: the best that the codes allow."""
    patches: list[HiddenPatch]


@dataclass(frozen=True)
class PatchGallery:
    """Held-out images with their hidden patches."""

    images: list[ShownImage]
    hidden: str
    """Picture of all hidden patches below one another, a data URI."""
    examples: str
    """Picture with a row of NUM_EXAMPLES training patches per code, a data URI."""
    num_hidden: int
    """Rows of `hidden`."""
    num_codes: int
    """Rows of `examples`."""
    num_without_example: int
    """Codes of which no patch was found among the training images; gray."""
    num_example_images: int
    is_small: bool
    """Whether pixels are to be shown as squares."""


@torch.no_grad()
def patch_gallery(
    checkpoint: Checkpoint[PretrainConfig],
    model: MaskedDataModel,
    held_out: Path,
    num_images: int,
    num_example_images: int,
    visual_tokenizer: Path | None = None,
) -> PatchGallery:
    """Return the first held-out images with the network's guesses.

    visual_tokenizer: None for the path in the run's config. Raises ValueError if the run hides no patches, or its
    visual tokenizer or shards are missing.
    """
    config = checkpoint.config
    if not config.num_masked_patches:
        raise ValueError(f"{checkpoint.folder} hides no patches: there is nothing to guess")
    path = visual_tokenizer or config.visual_tokenizer
    tokenizer = load_visual_tokenizer(path)
    if file_fingerprint(path) != checkpoint.data_fingerprints.get("visual tokenizer"):
        raise ValueError(f"{path} is not the visual tokenizer of the run; give that with --visual-tokenizer")
    view_size = tokenizer_view_size(tokenizer.config, config.model)
    image_size = max(config.model.image_size, view_size)
    images, _ = read_held_out(held_out, config.data, image_size, num_images)
    masks = training_masks(config, len(images))
    states = model.encode(image_inputs(network_view(images, config.model.image_size), masks)).images[:, 1:]
    probabilities = model.mim_head(states[masks]).softmax(-1)  # (hidden patches, codes)
    views = tokenizer_view(images, view_size)
    true, guessed = tokenizer.tokenize(views)[masks], probabilities.argmax(-1)
    codes = torch.cat([true, guessed]).unique()
    examples, num_read = example_patches(config, tokenizer, image_size, codes, num_example_images)
    rows = torch.searchsorted(codes, torch.stack([true, guessed]))  # (2, hidden patches)
    patches = cut(_uint8(views), tokenizer.config.patch_size)
    of_true = probabilities.gather(1, true[:, None])[:, 0]
    hidden = [
        HiddenPatch(number, *values)
        for number, values in enumerate(
            zip(true.tolist(), rows[0].tolist(), guessed.tolist(), rows[1].tolist(), of_true.tolist(), strict=True)
        )
    ]
    has_example = (examples != GRAY).flatten(1).any(1)
    is_small = tokenizer.config.patch_size < 14
    return PatchGallery(
        images=_shown_images(patches, masks, examples[rows, 0], hidden),
        hidden=data_uri(stacked(patches[masks][:, None]), is_small),
        examples=data_uri(stacked(examples), is_small),
        num_hidden=len(hidden),
        num_codes=len(codes),
        num_without_example=int((~has_example).sum()),
        num_example_images=num_read,
        is_small=is_small,
    )


def _shown_images(patches: Tensor, masks: Tensor, examples: Tensor, hidden: list[HiddenPatch]) -> list[ShownImage]:
    """Return the versions of each image.

    patches: (B, patches, 3, P, P); masks: (B, patches) bool; examples: (2, hidden patches, 3, P, P), of the true and of
    the guessed codes; hidden: of all images, in order.
    """
    shown, first = [], 0
    for image, mask in zip(patches, masks, strict=True):
        stop = first + int(mask.sum())
        true, guessed = examples[:, first:stop]
        shown.append(
            ShownImage(
                original=data_uri(joined(image)),
                hidden=data_uri(joined(_filled(image, mask, torch.full_like(true, GRAY)))),
                guessed=data_uri(joined(_filled(image, mask, guessed))),
                true=data_uri(joined(_filled(image, mask, true))),
                patches=hidden[first:stop],
            )
        )
        first = stop
    return shown


def example_patches(
    config: PretrainConfig, tokenizer: VisualTokenizer, image_size: int, codes: Tensor, num_images: int
) -> tuple[Tensor, int]:
    """Return training patches with the given codes, (codes, NUM_EXAMPLES, 3, P, P) uint8, gray if there are too few,
    and the number of images that were read.

    codes: sorted; num_images: the first of the sources, shared evenly. Raises ValueError if no source is a local folder
    of images.
    """
    patch_size = tokenizer.config.patch_size
    view_size = tokenizer_view_size(tokenizer.config, config.model)
    found: dict[int, list[Tensor]] = {code: [] for code in codes.tolist()}
    num_read = 0
    for view in _training_views(config, image_size, view_size, num_images):
        patches = cut(_uint8(view), patch_size)
        for image, image_codes in zip(patches, tokenizer.tokenize(view).tolist(), strict=True):
            num_read += 1
            for code in {*image_codes} & found.keys():  # one patch per image: neighbours look alike
                if len(found[code]) < NUM_EXAMPLES:
                    found[code].append(image[image_codes.index(code)])
        if all(len(examples) == NUM_EXAMPLES for examples in found.values()):
            break
    gray = torch.full((3, patch_size, patch_size), GRAY, dtype=torch.uint8)
    rows = [torch.stack([*examples, *[gray] * (NUM_EXAMPLES - len(examples))]) for examples in found.values()]
    return torch.stack(rows), num_read


def _training_views(config: PretrainConfig, image_size: int, view_size: int, num_images: int) -> Iterator[Tensor]:
    """Yield views of training images, (B, 3, view_size, view_size) in [0, 1]."""
    folders = [parse_source(entry)[0] for entry in (*config.data.images, *config.data.pairs)]
    local = [folder for folder in folders if not is_remote(folder)]
    if not local:
        raise ValueError("the run has no local folder of training images, from which example patches could be cut")
    for folder in local:
        images, _ = read_held_out(Path(folder), config.data, image_size, -(-num_images // len(local)))
        for chunk in images.split(CHUNK):
            yield tokenizer_view(chunk, view_size)


def _filled(image: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
    """Return the patches of an image (patches, 3, P, P) with those of the mask replaced."""
    filled = image.clone()
    filled[mask] = patches
    return filled


def _uint8(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().to(torch.uint8)
