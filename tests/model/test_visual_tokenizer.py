"""The visual tokenizer on its own: shapes, teacher, gradients, other grids. CPU, seconds."""

import math

import pytest
import torch
from torch import nn

from model.config import VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer, init_visual_tokenizer, patch_pixels

CONFIG = VisualTokenizerConfig(
    image_size=16, patch_size=4, dim=32, num_heads=4, encoder_depth=2, decoder_depth=1, num_codes=12, code_dim=8,
    teacher_dim=48,
)  # fmt: skip


@pytest.fixture
def tokenizer() -> VisualTokenizer:
    """A tokenizer whose codebook k-means has initialized."""
    tokenizer = VisualTokenizer(CONFIG)
    init_visual_tokenizer(tokenizer, 0.1, seed=0)
    tokenizer.codebook.start(tokenizer.features(images(6)).detach().flatten(0, 1))
    return tokenizer


def images(count: int, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def test_patch_pixels_are_row_major_patches_in_minus_one_to_one() -> None:
    pixels = images(2)
    teacher = patch_pixels(pixels, 4)
    assert teacher.shape == (2, 16, 48)
    expected = pixels[1, :, 4:8, 8:12] * 2 - 1  # row 1, column 2
    torch.testing.assert_close(teacher[1, 1 * 4 + 2], expected.flatten())


def test_codes_do_not_depend_on_the_rest_of_the_batch(tokenizer: VisualTokenizer) -> None:
    pixels = images(6)
    codes = tokenizer.tokenize(pixels)
    assert codes.shape == (6, 16) and codes.max() < 12 and len(codes.unique()) > 1
    dark = pixels[:1] * 0.1  # the original guesses the range of pixels from the batch's maximum
    assert torch.equal(tokenizer.tokenize(dark)[0], tokenizer.tokenize(torch.cat([dark, pixels]))[0])


def test_tokenizing_changes_nothing_even_in_training_mode(tokenizer: VisualTokenizer) -> None:
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    for mode in (True, False):
        tokenizer.train(mode).tokenize(images(3))
    assert all(torch.equal(value, tokenizer.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(("height", "width"), [(20, 20), (8, 8), (16, 24)])
def test_other_grids_have_one_code_per_patch_and_train(tokenizer: VisualTokenizer, height: int, width: int) -> None:
    pixels = torch.rand(2, 3, height, width)
    num_patches = (height // 4) * (width // 4)
    assert tokenizer.tokenize(pixels).shape == (2, num_patches)
    similarity, _, features = tokenizer(pixels, torch.randn(2, num_patches, 48))
    assert features.shape == (2, num_patches, 8)
    similarity.backward()
    gradient = tokenizer.encoder.pos_embed.grad
    assert gradient is not None and gradient[:, 1:].abs().sum() > 0


def test_gradients_pass_the_quantiser_to_the_encoder_and_not_to_the_codes(tokenizer: VisualTokenizer) -> None:
    similarity, commitment_loss, features = tokenizer(images(5), torch.randn(5, 16, 48))
    assert features.shape == (5, 16, 8) and not features.requires_grad
    similarity.backward(retain_graph=True)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    assert not tokenizer.codebook.codes.requires_grad
    tokenizer.zero_grad()
    commitment_loss.backward()
    for name, parameter in tokenizer.named_parameters():
        assert (parameter.grad is not None) == name.startswith("enc"), name


def test_a_perfect_reconstruction_has_similarity_one_and_codes_are_what_is_decoded(tokenizer: VisualTokenizer) -> None:
    pixels = images(3)
    codes = tokenizer.codebook.lookup(tokenizer.tokenize(pixels))  # (3, 16, 8)
    grid = codes.transpose(1, 2).unflatten(2, (4, 4))
    teacher = tokenizer.decode_task_layer(tokenizer.decoder(grid)).detach()
    similarity, commitment_loss, features = tokenizer(pixels, 3 * teacher)
    assert similarity.item() == pytest.approx(1, abs=1e-5)
    expected = (nn.functional.normalize(features, dim=-1) - codes).square().mean()
    torch.testing.assert_close(commitment_loss, expected)


def test_initial_weights_are_beit_v2s_and_a_function_of_the_seed() -> None:
    first, second, other = (VisualTokenizer(VisualTokenizerConfig(dim=192, num_heads=3)) for _ in range(3))
    for tokenizer, seed in ((first, 0), (second, 0), (other, 1)):
        for parameter in tokenizer.parameters():
            nn.init.constant_(parameter, math.nan)
        init_visual_tokenizer(tokenizer, 0.02, seed)
    for (name, one), two, three in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        expected = 0.02
        if "norm" in name:
            assert torch.equal(one, torch.full_like(one, float(name.endswith("weight")))), name
        elif name.endswith("bias") and "patch_embed" not in name:
            assert not one.any(), name
        else:
            assert not torch.equal(one, three), name
            if name.endswith(("attn.proj.weight", "fc2.weight")):
                expected /= math.sqrt(2 * (int(name.split(".")[2]) + 1))
            elif "patch_embed" in name:
                expected = (first.get_parameter(name.replace("bias", "weight"))[0].numel() * 3) ** -0.5
            tolerance = 6 / math.sqrt(one.numel())
            assert one.std().item() == pytest.approx(expected, rel=tolerance), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_in_lower_precision_agree_with_float32(dtype: torch.dtype) -> None:
    """Uses the published sizes with random weights, and a codebook fitted by k-means to the features of other
    images."""
    tokenizer = VisualTokenizer(VisualTokenizerConfig())
    init_visual_tokenizer(tokenizer, 0.05, seed=0)
    tokenizer = tokenizer.cuda().eval()
    noise = torch.rand(384, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    pixels = nn.functional.interpolate(noise, size=224, mode="bicubic").clamp(0, 1).cuda()
    with torch.no_grad():
        fitted = torch.cat([tokenizer.features(part).flatten(0, 1) for part in pixels[:320].split(32)])
        tokenizer.codebook.start(fitted[torch.randperm(len(fitted), generator=torch.Generator().manual_seed(0)).cuda()])
    agreements = [
        (tokenizer.tokenize(part, dtype) == tokenizer.tokenize(part)).float().mean() for part in pixels[320:].split(32)
    ]
    assert torch.stack(agreements).mean().item() >= 0.995
