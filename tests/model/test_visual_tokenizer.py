"""The visual tokenizer on its own: shapes, teacher, gradients."""

import torch

from model.visual_tokenizer import VisualTokenizer, VisualTokenizerConfig, patch_pixels

CONFIG = VisualTokenizerConfig(
    image_size=16, patch_size=4, dim=32, num_heads=4, encoder_depth=1, decoder_depth=1, num_codes=12, code_dim=8,
    teacher_dim=48, init_std=0.1,
)  # fmt: skip


def test_patch_pixels_are_row_major_patches_in_minus_one_to_one() -> None:
    pixels = torch.rand(2, 3, 16, 16)
    teacher = patch_pixels(pixels, 4)
    assert teacher.shape == (2, 16, 48)
    expected = pixels[1, :, 4:8, 8:12] * 2 - 1  # row 1, column 2
    torch.testing.assert_close(teacher[1, 1 * 4 + 2], expected.flatten())


def test_tokens_do_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(0)
    tokenizer = VisualTokenizer(CONFIG)
    images = torch.rand(6, 3, 16, 16)
    tokenizer.codebook.update(tokenizer.features(images).detach().flatten(0, 1), torch.Generator())
    tokens = tokenizer.tokenize(images)
    assert tokens.shape == (6, 16) and tokens.max() < 12 and len(tokens.unique()) > 1
    dark = images[:1] * 0.1  # the original guesses the range of pixels from the batch's maximum
    assert torch.equal(tokenizer.tokenize(dark)[0], tokenizer.tokenize(torch.cat([dark, images]))[0])


def test_gradients_pass_the_quantiser_to_the_encoder_and_not_to_the_codes() -> None:
    torch.manual_seed(0)
    tokenizer = VisualTokenizer(CONFIG)
    images = torch.rand(6, 3, 16, 16)
    features = tokenizer.features(images)
    tokenizer.codebook.update(features.detach().flatten(0, 1), torch.Generator())
    _, reconstruction, _ = tokenizer(features)
    assert reconstruction.shape == (6, 16, 48)
    reconstruction.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    assert not tokenizer.codebook.codes.requires_grad
