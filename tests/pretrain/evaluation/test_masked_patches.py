"""Accuracy of guessing hidden patches, compared with counts by hand. CPU, seconds."""

import json
from pathlib import Path

import pytest
import torch

from model.kernels.block_masks import block_image_masks
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import NotFiniteError
from pretrain.evaluation.held_out import forward_of, read_held_out
from pretrain.evaluation.masked_patches import evaluate_masked_patches, guess_images
from pretrain.evaluation.options import MaskedPatchesOptions
from pretrain.formats.vqkd import save_vqkd
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from tests.support.crafted import copy_of_run, seal
from tests.support.tiny import CONFIG, tiny_model
from tests.support.tiny_run import TinyData


def right_by_the_others(codes: list[int]) -> int:
    """Count the codes that equal the most common one of the other codes, ties included."""
    right = 0
    for i, code in enumerate(codes):
        others = codes[:i] + codes[i + 1 :]
        right += code in others and others.count(code) == max(others.count(other) for other in others)
    return right


def test_hidden_patches_are_those_of_training_and_constants_are_counted(two_ranks: Path, tiny_data: TinyData) -> None:
    result = evaluate_masked_patches(MaskedPatchesOptions(two_ranks, tiny_data.folder / "images", max_images=30))
    assert (result.num_images, result.num_patches) == (30, 30 * 14)
    config = find_checkpoint(two_ranks, PretrainConfig).config
    images, captions = read_held_out(tiny_data.folder / "images", config.data, 48, 30)
    assert captions == []
    codes = load_visual_tokenizer(config.visual_tokenizer).tokenize(images / 255)
    masks = block_image_masks(config.seed, torch.arange(30), 6, 14, 3, "reference").mask
    hidden = codes[masks].tolist()
    by_place = [
        [code for code, is_hidden in zip(*place, strict=True) if is_hidden]
        for place in zip(codes.T.tolist(), masks.T.tolist(), strict=True)
    ]
    assert result.commonest == pytest.approx(right_by_the_others(hidden) / len(hidden))
    assert result.commonest_at_place == pytest.approx(sum(map(right_by_the_others, by_place)) / len(hidden))
    assert 0 <= result.accuracy <= 1 and result.nll > result.entropy > 0  # eight steps teach nothing


def test_guesses_that_are_not_finite_are_refused() -> None:
    model, size = tiny_model(), CONFIG.image_size
    with torch.no_grad():
        model.mim_head.weight.fill_(torch.inf)
    masks = torch.zeros(2, CONFIG.num_patches, dtype=torch.bool)
    masks[:, :2] = True
    codes = torch.zeros(2, CONFIG.num_patches, dtype=torch.int64)
    with torch.no_grad(), pytest.raises(NotFiniteError, match=r"for 2 of 2 samples \(image 0, image 1\)"):
        guess_images(forward_of(model), torch.zeros(2, 3, size, size), masks, codes)


def test_another_visual_tokenizer_than_the_runs_is_refused(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    other = load_visual_tokenizer(tiny_data.folder / "visual_tokenizer.pt")
    other.codebook.codes.neg_()
    save_vqkd(other, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt is not the visual tokenizer of the run"):
        evaluate_masked_patches(MaskedPatchesOptions(two_ranks, tiny_data.folder / "images", tmp_path / "other.pt"))


@pytest.mark.parametrize(
    ("objective", "num_images", "said"),
    [
        ({"num_masked_patches": 0, "image_mask_ratio": 0.0}, 4, "num_masked_patches 0, whole_image_share 0.5"),
        ({"whole_image_share": 1.0}, 0, "num_masked_patches 14, whole_image_share 1"),
    ],
)
def test_a_run_that_hides_no_patches_is_refused(
    objective: dict[str, float], num_images: int, said: str, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["objective"] |= objective
    config["images_per_step"] = num_images
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)
    with pytest.raises(ValueError, match=rf"run hides no patches \(objective.{said}\)"):
        evaluate_masked_patches(MaskedPatchesOptions(tmp_path / "run", tiny_data.folder / "images"))
