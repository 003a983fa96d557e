"""Hidden patches and the training patches that stand for codes. CPU, seconds."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import image_inputs, read_held_out, training_masks
from pretrain.jobs.visual_tokens import load_visual_tokenizer, network_view
from pretrain.reporting.embedded import cut
from pretrain.reporting.patch_gallery import GRAY, example_patches, patch_gallery
from tests.support.tiny_run import TinyData


def test_examples_of_a_code_are_training_patches_with_that_code(two_ranks: Path, tiny_data: TinyData) -> None:
    config = find_checkpoint(two_ranks, PretrainConfig).config
    tokenizer = load_visual_tokenizer(config.visual_tokenizer)
    images = torch.cat([read_held_out(tiny_data.folder / name, config.data, 48, 40)[0] for name in ("images", "pairs")])
    patches, codes = cut(images, 8).flatten(0, 1), tokenizer.tokenize(images / 255).flatten()
    used = codes.unique()
    unused = next(code for code in range(256) if code not in used)
    wanted = torch.tensor(sorted([*used[:3].tolist(), unused]))
    examples, num_read = example_patches(config, tokenizer, 48, wanted, 80)
    assert examples.shape == (4, 4, 3, 8, 8) and num_read == 80
    for code, rows in zip(wanted.tolist(), examples, strict=True):
        own = patches[codes == code]
        is_found = [bool((own == example).flatten(1).all(1).any()) for example in rows if (example != GRAY).any()]
        assert all(is_found) and bool(is_found) == (code != unused)


def test_the_gallery_has_the_guess_of_every_hidden_patch(two_ranks: Path, tiny_data: TinyData) -> None:
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    gallery = patch_gallery(checkpoint, model, tiny_data.folder / "pairs", 3, 40)
    images, _ = read_held_out(tiny_data.folder / "pairs", config.data, 48, 3)
    masks = training_masks(config, 3)
    codes = load_visual_tokenizer(config.visual_tokenizer).tokenize(images / 255)
    with torch.no_grad():
        logits = model.mim_head(model.encode(image_inputs(network_view(images, 48), masks)).images[:, 1:])
    for image, mask, true, scores in zip(gallery.images, masks, codes, logits, strict=True):
        assert len(image.patches) == config.num_masked_patches == 14
        assert [patch.true_code for patch in image.patches] == true[mask].tolist()
        assert [patch.guessed_code for patch in image.patches] == scores[mask].argmax(-1).tolist()
        expected = scores[mask].softmax(-1).gather(1, true[mask][:, None])[:, 0]
        assert [patch.probability for patch in image.patches] == pytest.approx(expected.tolist(), abs=1e-5)
        assert len({image.original, image.hidden, image.true}) == 3
    rows = {patch.true_code: patch.true_row for image in gallery.images for patch in image.patches}
    rows |= {patch.guessed_code: patch.guessed_row for image in gallery.images for patch in image.patches}
    assert sorted(rows.values()) == list(range(gallery.num_codes)) and sorted(rows) == sorted(
        rows, key=rows.__getitem__
    )
    assert gallery.num_hidden == 42 and gallery.is_small


def test_pictures_without_their_files_are_refused(two_ranks: Path, tiny_data: TinyData) -> None:
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    with pytest.raises(ValueError, match=r"none.pt does not exist"):
        patch_gallery(checkpoint, model, tiny_data.folder / "pairs", 1, 1, Path("none.pt"))
    remote = dataclasses.replace(config.data, images=("s3://bucket/a",), pairs=("s3://bucket/b",))
    elsewhere = dataclasses.replace(checkpoint, config=dataclasses.replace(config, data=remote))
    with pytest.raises(ValueError, match="no local folder of training images"):
        patch_gallery(elsewhere, model, tiny_data.folder / "pairs", 1, 1)
