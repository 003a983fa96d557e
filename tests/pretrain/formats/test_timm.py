"""Image towers in the form of timm. CPU, seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

from data_pipeline.images.transform import CropMode
from model.config import MultiwayConfig
from model.dense_features import DenseBackbone
from model.embeddings import interpolate_positions
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from pretrain.formats.preprocessing import IMAGENET_MEAN, Preprocessing
from pretrain.formats.timm import save_timm
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.tiny import CONFIG, tiny_model

timm = import_beside_cpu_torch("timm")
PREPROCESSING = Preprocessing(CONFIG.image_size)


def random_model(config: MultiwayConfig) -> MaskedDataModel:
    """Return a model with random weights, norms and biases included, about as large as after training."""
    with torch.device("meta"):
        model = MaskedDataModel(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            is_norm_weight = "norm" in name and name.endswith(".weight")
            parameter.normal_(mean=float(is_norm_weight), std=0.02 if parameter.ndim > 1 else 0.1)
    return model.eval()


def our_image_states(model: MaskedDataModel, images: torch.Tensor) -> torch.Tensor:
    num_patches = (images.shape[2] // model.encoder.config.patch_size) ** 2
    no_ids = torch.zeros(0, 3, dtype=torch.int64)
    with torch.no_grad():
        mask = torch.zeros(len(images), num_patches, dtype=torch.bool)
        return model.encode(MultiwayInputs(images, mask, no_ids, no_ids.bool(), no_ids, no_ids.bool())).images


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        (MultiwayConfig(attention="decoupled"), "beit3_base_patch16_224"),
        (
            MultiwayConfig(dim=1408, depth=2, num_heads=16, ffn_dim=6144, num_vl_layers=1, patch_size=14),
            "beit3_giant_patch14_224",
        ),
    ],
    ids=["base", "giant_2_layers"],
)
@pytest.mark.slow  # towers of small networks are below
def test_published_towers_give_our_hidden_states(config: MultiwayConfig, architecture: str, tmp_path: Path) -> None:
    model = random_model(replace(config, vocab_size=100, num_visual_tokens=20))
    save_timm(model.state_dict().items(), model.encoder.config, PREPROCESSING, tmp_path)
    tower = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert tower.default_cfg["architecture"] == architecture
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        theirs = tower.forward_features(images)
    torch.testing.assert_close(theirs, our_image_states(model, images), atol=2e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"attention": "decoupled", "num_vl_layers": 0}, {"ffn_dim": 47}], ids=str)
def test_towers_of_any_size_give_our_hidden_states(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(**changes)
    save_timm(model.state_dict().items(), model.encoder.config, PREPROCESSING, tmp_path)
    tower = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, CONFIG.image_size, CONFIG.image_size)
    with torch.no_grad():
        torch.testing.assert_close(tower.forward_features(images), our_image_states(model, images), atol=2e-5, rtol=0)


@pytest.mark.parametrize("crop_mode", get_args(CropMode))
def test_timm_prepares_images_as_we_do(crop_mode: CropMode, tmp_path: Path) -> None:
    model, preprocessing = tiny_model(), Preprocessing(CONFIG.image_size, IMAGENET_MEAN, crop_mode=crop_mode)
    save_timm(model.state_dict().items(), CONFIG, preprocessing, tmp_path)
    tower = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    down = Image.linear_gradient("L")
    image = Image.merge("RGB", (down, down.transpose(Image.Transpose.ROTATE_90), down)).resize((96, 64))
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(model=tower))(image)
    ours = torch.from_numpy(preprocessing.image_transform().center_of(image)).float() / 255
    expected = (ours - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / 0.5
    assert (theirs - expected).abs().max() <= 2 * 3 / 255  # three levels, as timm's filter reaches beyond the square


def test_it_serves_as_a_classifier_and_as_a_backbone(tmp_path: Path) -> None:
    model = tiny_model()
    save_timm(model.state_dict().items(), model.encoder.config, PREPROCESSING, tmp_path)
    images = torch.randn(2, 3, CONFIG.image_size, CONFIG.image_size)
    classifier = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)
    assert classifier(images).shape == (2, 7)
    backbone = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    states, maps = backbone.forward_intermediates(images, indices=[0, 2], norm=True)
    assert [m.shape for m in maps] == [(2, CONFIG.dim, CONFIG.grid_size, CONFIG.grid_size)] * 2
    torch.testing.assert_close(states.detach(), our_image_states(model, images), atol=2e-5, rtol=0)


@pytest.mark.parametrize("side", [CONFIG.image_size, 2 * CONFIG.image_size])
def test_maps_of_features_only_equal_those_of_our_backbone(side: int, tmp_path: Path) -> None:
    model, images = tiny_model(), torch.randn(2, 3, side, side)
    config = replace(CONFIG, image_size=side)
    weights = dict(model.state_dict())
    positions = "encoder.vision_embed.pos_embed"  # convert --image-size does the same
    weights[positions] = interpolate_positions(weights[positions], (config.grid_size, config.grid_size))
    save_timm(weights.items(), config, PREPROCESSING, tmp_path)
    tower = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, out_indices=(0, 2)).eval()
    assert tower.feature_info.reduction() == [CONFIG.patch_size] * 2
    with torch.no_grad():
        pairs = zip(tower(images), DenseBackbone(model.encoder, layers=(1, 3))(images), strict=True)
        for theirs, ours in pairs:
            torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
