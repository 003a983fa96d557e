"""Does the network predict hidden patches? See pretrain/masked_patches.py.

Patches of held-out images are hidden as in training, and their codes guessed. Beside it stands what needs no network:
the commonest code, the commonest code of each place, and the entropy of the codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import read_held_out, training_masks
from pretrain.evaluation.options import MaskedPatchesOptions
from pretrain.jobs.visual_tokens import load_visual_tokenizer, network_view, tokenizer_view, tokenizer_view_size
from pretrain.run.unchanged import file_fingerprint

CHUNK = 64


@dataclass(frozen=True)
class MaskedPatchesResult:
    """Over all hidden patches."""

    num_images: int
    num_patches: int
    num_masked_patches: int
    """Hidden in each image: as many as in training."""
    num_patches_per_image: int
    accuracy: float
    commonest: float
    """Accuracy of the commonest code of the other patches."""
    commonest_at_place: float
    """Accuracy of the commonest code of the other patches at the same place of the grid."""
    nll: float
    """Mean negative log likelihood of a code, nats."""
    entropy: float
    """Of the codes asked for, nats: the best that a fixed distribution does."""


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
    """Evaluate a checkpoint. Raises ValueError where it, the tokenizer or the shards are missing."""
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
    codes = torch.cat([tokenizer.tokenize(tokenizer_view(chunk, view_size)) for chunk in images.split(CHUNK)])
    num_right, nll = 0.0, 0.0
    for chunk in torch.arange(len(images)).split(CHUNK):
        log_probabilities = _guess(model, config, images[chunk], masks[chunk])  # (hidden patches, codes)
        labels = codes[chunk][masks[chunk]]
        num_right += float((log_probabilities.argmax(-1) == labels).sum())
        nll -= float(log_probabilities.gather(1, labels[:, None]).sum())
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
    """How many of the codes (n,) are the commonest of the others, ties won."""
    first, second = torch.nn.functional.pad(torch.bincount(codes), (0, 2)).topk(2).values.tolist()
    return first if first - 1 >= max(second, 1) else 0


def _guess(model: MaskedDataModel, config: PretrainConfig, images: Tensor, mask: Tensor) -> Tensor:
    """(hidden patches, codes) log probabilities."""
    no_text = torch.zeros(0, 1, dtype=torch.int64)
    inputs = MultiwayInputs(
        images=network_view(images, config.model.image_size),
        image_mask=mask,
        caption_ids=no_text,
        caption_padding=no_text.bool(),
        text_ids=no_text,
        text_padding=no_text.bool(),
    )
    states = model.encode(inputs).images[:, 1:]  # past the class token
    return model.mim_head(states[mask]).log_softmax(-1)
