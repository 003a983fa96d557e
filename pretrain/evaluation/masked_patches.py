"""Hidden patches of held-out images: does the network predict their codes?

Patches are hidden as in training. Baselines without a network are the commonest code, the commonest code of each place,
and the entropy of the codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.checkpoints.fingerprints import file_fingerprint
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import check_finite
from pretrain.evaluation.held_out import (
    Forward,
    forward_of,
    image_inputs,
    read_held_out,
    targets_of,
    training_masks,
)
from pretrain.evaluation.options import MaskedPatchesOptions
from pretrain.jobs.visual_tokens import load_visual_tokenizer, network_view, tokenizer_view, tokenizer_view_size

CHUNK = 64


@dataclass(frozen=True)
class MaskedPatchesResult:
    """Figures over all hidden patches."""

    num_images: int
    num_patches: int
    num_masked_patches: int
    """Patches hidden in each image: as many as in training."""
    num_patches_per_image: int
    accuracy: float
    commonest: float
    """Accuracy of the commonest code of the other patches."""
    commonest_at_place: float
    """Accuracy of the commonest code of the other patches at the same place of the grid."""
    nll: float
    """Mean negative log likelihood per code, in nats."""
    entropy: float
    """Entropy of the codes in nats: the nll of the best fixed distribution."""


def report(result: MaskedPatchesResult) -> str:
    """Return the figures in one line."""
    return (
        f"images={result.num_images} patches={result.num_patches} hidden={result.num_masked_patches}/"
        f"{result.num_patches_per_image} acc={result.accuracy:.3f} "
        f"acc_commonest={result.commonest:.3f} acc_commonest_at_place={result.commonest_at_place:.3f} "
        f"nll={result.nll:.3f} entropy={result.entropy:.3f}"
    )


@torch.no_grad()
def evaluate_masked_patches(options: MaskedPatchesOptions) -> MaskedPatchesResult:
    """Evaluate a checkpoint. Raises ValueError if it, the tokenizer or the shards are missing, or nothing is hidden,
    NotFiniteError if outputs of the network are not finite."""
    checkpoint = find_checkpoint(options.source, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    if not config.num_masked_patches or not {"mim", "mvlm_image"} & set(config.objectives):
        raise ValueError(
            f"{options.source} hides no patches (objective.num_masked_patches {config.num_masked_patches}, "
            f"whole_image_share {config.objective.whole_image_share:g}): there is nothing to guess"
        )
    path = options.visual_tokenizer or config.visual_tokenizer
    tokenizer = load_visual_tokenizer(path)
    if file_fingerprint(path) != checkpoint.data_fingerprints.get("visual tokenizer"):
        raise ValueError(f"{path} is not the visual tokenizer of the run; give that with --visual-tokenizer")
    view_size = tokenizer_view_size(tokenizer.config, config.model)
    image_size = max(config.model.image_size, view_size)
    images, _ = read_held_out(options.images, config.data, image_size, options.max_images)
    masks = training_masks(config, len(images))
    # in float32, unlike targets in training on a GPU, so that the figures do not depend on the machine
    codes = torch.cat([tokenizer.tokenize(tokenizer_view(chunk, view_size)) for chunk in images.split(CHUNK)])
    pixels = network_view(images, config.model.image_size)
    nll, num_right, _ = guess_images(forward_of(model), pixels, masks, codes).double().sum(0).tolist()
    labels = codes[masks]
    shares = torch.bincount(labels) / len(labels)
    places = [place[mask] for place, mask in zip(codes.T, masks.T, strict=True) if mask.any()]
    return MaskedPatchesResult(
        num_images=len(images),
        num_patches=len(labels),
        num_masked_patches=config.num_masked_patches,
        num_patches_per_image=config.model.num_patches,
        accuracy=num_right / len(labels),
        commonest=commonest_left_out(labels) / len(labels),
        commonest_at_place=sum(map(commonest_left_out, places)) / len(labels),
        nll=nll / len(labels),
        entropy=float(torch.special.entr(shares).sum()),
    )


def commonest_left_out(codes: Tensor) -> int:
    """Return how many of the codes (n,) equal the commonest of the other codes, ties counted as equal."""
    # a code is predicted without itself: else each code that occurs once at its place would count as guessed
    first, second = torch.nn.functional.pad(torch.bincount(codes), (0, 2)).topk(2).values.tolist()
    return first if first - 1 >= max(second, 1) else 0


def guess_images(forward: Forward, pixels: Tensor, masks: Tensor, codes: Tensor) -> Tensor:
    """Return the rows of `guess_patches` for any number of images. Raises NotFiniteError."""
    chunks = zip(pixels.split(CHUNK), masks.split(CHUNK), codes.split(CHUNK), strict=True)
    rows = torch.cat([guess_patches(forward, *chunk) for chunk in chunks])
    check_finite(rows, "image {}".format)
    return rows


def guess_patches(forward: Forward, pixels: Tensor, masks: Tensor, codes: Tensor) -> Tensor:
    """Guess the hidden patches of B images, as many in each.

    pixels: (B, 3, H, W) as the network takes them; masks: (B, patches) bool, True = hidden; codes: (B, patches).
    Returns (B, 3): the negative log likelihood in nats, the number of patches guessed, and their number.
    """
    inputs = image_inputs(pixels, masks)
    positions = masks.nonzero()[:, 1].view(len(masks), -1)
    return forward(inputs, targets_of(inputs, patches=(positions, codes.gather(1, positions)))).images
