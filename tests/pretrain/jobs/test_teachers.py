"""Teachers of the visual tokenizer, with random weights for those of timm and open_clip. CPU, seconds."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from pretrain.config.visual_tokenizer import TeacherConfig
from pretrain.jobs.teachers import Teacher, check_teacher, load_teacher
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.crafted import ATTACKS

timm = import_beside_cpu_torch("timm")
open_clip = import_beside_cpu_torch("open_clip")

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")

CPU = torch.device("cpu")
SIZE = 64
GRID = SIZE // 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EMOJI = Path(__file__).parents[4] / "shared/data/emoji/images"
EFFICIENTNET = "tests.support.efficientnet_teacher.efficientnet_lite0"


def load(name: str, weights: Path | None = None, image_size: int | None = SIZE) -> Teacher:
    return load_teacher(TeacherConfig(name, weights, image_size), patch_size=16, device=CPU)


def images(num: int = 2, size: int = SIZE) -> Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def normalized(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def saved(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def transformer_block(
    x: Tensor, w: dict[str, Tensor], parts: tuple[str, ...], num_heads: int, eps: float, quick: bool
) -> Tensor:
    """Return the output of a pre-norm block by its definition; parts: names of norm, qkv, proj, norm, fc1, fc2."""

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    norm1, qkv_name, proj, norm2, fc1, fc2 = parts
    dot = "_" if qkv_name.endswith("in_proj") else "."
    qkv = linear(norm(x, norm1), w[f"{qkv_name}{dot}weight"], w[f"{qkv_name}{dot}bias"])
    q, k, v = (part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
    x = x + linear((weights @ v).transpose(1, 2).flatten(2), w[f"{proj}.weight"], w[f"{proj}.bias"])
    hidden = linear(norm(x, norm2), w[f"{fc1}.weight"], w[f"{fc1}.bias"])
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else gelu(hidden)
    return x + linear(hidden, w[f"{fc2}.weight"], w[f"{fc2}.bias"])


def dino_weights(dim: int = 192, depth: int = 12) -> dict[str, Tensor]:
    """Return names and shapes of dino_*_pretrain.pth (facebookresearch/dino, vision_transformer.py), for SIZE px."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, GRID**2 + 1, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for i in range(depth):
        for name, width_out, width_in in (
            ("attn.qkv", 3, 1),
            ("attn.proj", 1, 1),
            ("mlp.fc1", 4, 1),
            ("mlp.fc2", 1, 4),
        ):
            shapes[f"blocks.{i}.{name}.weight"] = (width_out * dim, width_in * dim)
            shapes[f"blocks.{i}.{name}.bias"] = (width_out * dim,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{name}.weight"] = shapes[f"blocks.{i}.{name}.bias"] = (dim,)
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_pixels_of_patches_are_a_teacher_without_weights() -> None:
    pixels = images()
    features = load("pixels")(pixels)
    patch = pixels[1, :, 16:32, 32:48] * 2 - 1  # row 1, column 2
    torch.testing.assert_close(features[1, GRID + 2], patch.flatten())
    check_teacher(load("pixels"), SIZE, GRID, 3 * 16 * 16, CPU)


def test_dinos_original_file_gives_the_patch_tokens_of_its_definition(tmp_path: Path) -> None:
    w = dino_weights()
    teacher = load("timm:vit_tiny_patch16_224.augreg_in21k", saved(w, tmp_path / "dino.pth"))
    x = normalized(images(), (0.5,) * 3, (0.5,) * 3)
    x = conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    for i in range(12):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        x = transformer_block(x, w, tuple(f"blocks.{i}.{part}" for part in parts), num_heads=3, eps=1e-6, quick=False)
    expected = layer_norm(x, (192,), w["norm.weight"], w["norm.bias"], 1e-6)[:, 1:]
    torch.testing.assert_close(teacher(images()), expected, atol=1e-4, rtol=1e-4)


def test_dinos_base_model_takes_imagenets_mean_and_std_and_has_the_original_names() -> None:
    config = timm.models.get_pretrained_cfg("vit_base_patch16_224.dino")
    assert (config.mean, config.std, config.num_classes) == (IMAGENET_MEAN, IMAGENET_STD, 0)
    with torch.device("meta"):
        names = set(timm.create_model("vit_base_patch16_224.dino").state_dict())
    assert names == set(dino_weights(dim=2, depth=12))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_tower_gives_its_tokens_without_prefix_and_classifier(suffix: str, tmp_path: Path) -> None:
    tower = timm.create_model("deit_tiny_distilled_patch16_224", img_size=SIZE).eval()  # two prefix, two classifiers
    path = saved(tower.state_dict(), tmp_path / f"deit{suffix}")
    with torch.no_grad():
        expected = tower.forward_features(normalized(images(), IMAGENET_MEAN, IMAGENET_STD))[:, 2:]
    torch.testing.assert_close(load("timm:deit_tiny_distilled_patch16_224", path)(images()), expected)


def test_wrappers_around_a_state_dict_are_removed(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    plain = load("timm:test_vit", saved(state, tmp_path / "plain.pth"))
    wrapped = {"epoch": 3, "model": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    torch.testing.assert_close(load("timm:test_vit", tmp_path / "wrapped.pth")(images()), plain(images()))


@pytest.mark.parametrize(("image_size", "view"), [(None, 64), (None, 96), (96, 96)])
def test_a_timm_tower_takes_other_sizes_than_its_own(image_size: int | None, view: int, tmp_path: Path) -> None:
    path = saved(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")  # of 160 px
    teacher = load("timm:test_vit", path, image_size)
    check_teacher(teacher, view, view // 16, 64, CPU)
    with pytest.raises(ValueError, match=r"the teacher takes no images of 90 px \(.*\); set teacher.image_size"):
        check_teacher(teacher, 90, 6, 64, CPU)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "mambaout_femto"], ids=["NCHW", "NCHW", "NHWC"])
def test_a_timm_map_becomes_patches_in_row_major_order(model: str, tmp_path: Path) -> None:
    tower = timm.create_model(model).eval()
    teacher = load(f"timm:{model}", saved(tower.state_dict(), tmp_path / "weights.pth"))
    mean, std = tower.pretrained_cfg["mean"], tower.pretrained_cfg["std"]
    with torch.no_grad():
        feature_map = tower.forward_features(normalized(images(), mean, std))
    if model == "mambaout_femto":
        feature_map = feature_map.permute(0, 3, 1, 2)
    features = teacher(images())
    grid = feature_map.shape[-1]
    assert features.shape == (2, grid**2, tower.num_features) and grid == 2
    for row in range(grid):
        for column in range(grid):
            torch.testing.assert_close(features[:, row * grid + column], feature_map[:, :, row, column])


def test_a_timm_tower_with_tokens_of_unknown_order_is_refused(tmp_path: Path) -> None:
    path = saved(timm.create_model("gmlp_ti16_224").state_dict(), tmp_path / "gmlp.pth")
    with pytest.raises(ValueError, match="timm:gmlp_ti16_224 gives neither tokens nor a map whose order is known"):
        check_teacher(load("timm:gmlp_ti16_224", path, None), 224, 14, 128, CPU)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Register tiny-clip and tiny-clip-quickgelu (3 blocks of 32 dimensions, 64 px, 24 projected); return one."""
    folder = tmp_path_factory.mktemp("configs")
    for name, changes in {"": {}, "-quickgelu": {"quick_gelu": True}}.items():
        vision = {"image_size": SIZE, "layers": 3, "width": 32, "head_width": 8, "patch_size": 16}
        text = {"context_length": 7, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1}
        sizes = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text} | changes
        (folder / f"tiny-clip{name}.json").write_text(json.dumps(sizes))
    open_clip.add_model_config(folder)
    torch.manual_seed(2)
    clip = open_clip.create_model("tiny-clip-quickgelu").eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return clip


def clip_features(state: dict[str, Tensor], pixels: Tensor, quick: bool) -> Tensor:
    """Return ln_post(patch tokens) @ proj, by the definition of CLIP's image tower."""
    w = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    x = conv2d(normalized(pixels, CLIP_MEAN, CLIP_STD), w["conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], dim=1) + w["positional_embedding"]
    x = layer_norm(x, (32,), w["ln_pre.weight"], w["ln_pre.bias"])
    for i in range(3):
        parts = ("ln_1", "attn.in_proj", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        names = tuple(f"transformer.resblocks.{i}.{part}" for part in parts)
        x = transformer_block(x, w, names, num_heads=4, eps=1e-5, quick=quick)
    return layer_norm(x[:, 1:], (32,), w["ln_post.weight"], w["ln_post.bias"]) @ w["proj"]


@pytest.mark.parametrize("model", ["tiny-clip", "tiny-clip-quickgelu"])
def test_an_open_clip_tower_gives_all_projected_patch_tokens(model: str, tiny_clip: Any, tmp_path: Path) -> None:
    state = tiny_clip.state_dict()
    path = saved(state, tmp_path / "clip.safetensors")
    expected = clip_features(state, images(), quick=model.endswith("quickgelu"))
    torch.testing.assert_close(load(f"open_clip:{model}", path, None)(images()), expected, atol=1e-5, rtol=1e-4)


def test_the_activation_in_the_name_of_an_open_clip_model_matters(tiny_clip: Any) -> None:
    state = tiny_clip.state_dict()
    assert not torch.allclose(clip_features(state, images(), True), clip_features(state, images(), False), atol=1e-3)


@pytest.mark.parametrize("name", ["open_clip:tiny-clip-quickgelu", "timm:test_vit"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_torchscript_archive_is_not_loaded_where_weights_are_asked_for(
    name: str, suffix: str, tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write an archive like OpenAI's own files, which runs code when it is loaded."""
    path, loaded = tmp_path / f"ViT{suffix}", []
    torch.jit.save(torch.jit.script(Strided(as_map=True)), str(path))
    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **named: loaded.append(arguments))
    with pytest.raises(ValueError, match=f"{path} is a TorchScript archive, which runs code when it is loaded; give"):
        load(name, path)
    assert not loaded


def test_a_state_dict_in_half_precision_that_was_taken_from_openais_archive_is_read(
    tiny_clip: Any, tmp_path: Path
) -> None:
    path = saved({name: tensor.half() for name, tensor in tiny_clip.state_dict().items()}, tmp_path / "ViT.pth")
    halved = {name: tensor.half().float() for name, tensor in tiny_clip.state_dict().items()}
    features = load("open_clip:tiny-clip-quickgelu", path)(images())
    torch.testing.assert_close(features, clip_features(halved, images(), quick=True), atol=1e-5, rtol=1e-4)


def test_an_open_clip_tower_of_another_size_needs_image_size(tiny_clip: Any, tmp_path: Path) -> None:
    path = saved({name: tensor.half() for name, tensor in tiny_clip.state_dict().items()}, tmp_path / "clip.pth")
    check_teacher(load("open_clip:tiny-clip", path, 96), 96, 6, 24, CPU)
    with pytest.raises(ValueError, match=r"takes no images of 96 px \(.*\); set teacher.image_size to its own size"):
        check_teacher(load("open_clip:tiny-clip", path, None), 96, 6, 24, CPU)


@pytest.mark.parametrize("model", ["RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP"])
def test_open_clip_towers_without_projected_patch_tokens_are_refused(model: str, tmp_path: Path) -> None:
    path = saved({"visual.proj": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"open_clip:{model} has no projected patch tokens; use a plain ViT"):
        load(f"open_clip:{model}", path)


class Strided(nn.Module):
    """A network that returns a map (B, 5, S / 16, S / 16), or its patches."""

    def __init__(self, as_map: bool):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, kernel_size=16, stride=16)
        self.as_map = as_map

    def forward(self, pixels: Tensor) -> Tensor:
        feature_map = self.conv(pixels)
        if self.as_map:
            return feature_map
        return feature_map.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("as_map", [True, False])
def test_a_torchscript_file_gives_patches_or_a_map(as_map: bool, tmp_path: Path) -> None:
    module = Strided(as_map)
    torch.jit.script(module).save(str(tmp_path / "teacher.pt"))
    teacher = load("torchscript", tmp_path / "teacher.pt")
    expected = module.conv(images()).detach().flatten(2).transpose(1, 2)
    torch.testing.assert_close(teacher(images()), expected)


def test_a_dotted_path_is_called_with_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teacher_of_mine.py").write_text(
        "def half(weights):\n    return lambda pixels: pixels.half() * 0 + 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    features = load("teacher_of_mine.half", Path("any"))(images())
    assert features.dtype == torch.float32 and features.unique().tolist() == [7]


def test_teachers_need_no_gradient_and_change_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teacher_with_state.py").write_text(
        "from torch import nn\n"
        "network = nn.Sequential(nn.Conv2d(3, 5, 16, 16), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten(2))\n"
        "def build(weights):\n    return network\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    teacher = load("teacher_with_state.build")
    network = importlib.import_module("teacher_with_state").network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pixels = images().requires_grad_()
    features = teacher(pixels)
    assert not features.requires_grad and not features.is_inference()
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(teacher(pixels), features)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_the_real_teacher_distinguishes_images() -> None:
    teacher = load(EFFICIENTNET)
    check_teacher(teacher, 224, 14, 112, CPU)
    features = teacher(images(2, 224))
    assert features.shape == (2, 196, 112) and features.dtype == torch.float32
    assert (features[0] - features[1]).abs().mean() > 0.1 * features.abs().mean()


def test_the_real_teacher_distinguishes_patches_of_real_images() -> None:
    if not EMOJI.exists():
        pytest.skip(f"there are no real images in {EMOJI}")
    pixels = []
    for path in sorted(EMOJI.glob("*.webp"))[100:500:100]:
        rgba = Image.open(path).convert("RGBA").resize((224, 224))
        white = Image.new("RGBA", rgba.size, "white")
        bytes_ = torch.frombuffer(
            bytearray(Image.alpha_composite(white, rgba).convert("RGB").tobytes()), dtype=torch.uint8
        )
        pixels.append(bytes_.view(224, 224, 3).permute(2, 0, 1) / 255)
    features = torch.nn.functional.normalize(load(EFFICIENTNET)(torch.stack(pixels)), dim=-1)
    similarity = features @ features.transpose(1, 2)  # (B, 196, 196)
    assert (similarity.mean(dim=(1, 2)) < 0.8).all()
    centres = features[:, 7 * 14 + 7]
    assert (centres @ centres.T).fill_diagonal_(0).max() < 0.9


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            TeacherConfig("clip"),
            "there is no teacher 'clip'; teacher.name is one of pixels, timm:MODEL, open_clip:MODEL",
        ),
        (TeacherConfig("timm:"), "there is no teacher 'timm:'; teacher.name is one of"),
        (TeacherConfig("jax:a.b"), "there is no teacher 'jax:a.b'; teacher.name is one of"),
        (TeacherConfig("pixels", Path("w")), "teacher pixels has no weights, but teacher.weights is w; leave it out"),
        (TeacherConfig("timm:test_vit"), "teacher timm:test_vit has no weights; set teacher.weights to a local file"),
        (TeacherConfig("open_clip:RN50"), "teacher open_clip:RN50 has no weights; set teacher.weights"),
        (
            TeacherConfig("torchscript", Path("nowhere.pt")),
            "teacher.weights nowhere.pt is not a file; give the weights",
        ),
        (TeacherConfig("timm:vit_tniy", Path(__file__)), "timm .* has no model 'vit_tniy'; timm.list_models"),
        (TeacherConfig("timm:hf-hub:a/b", Path(__file__)), "timm .* has no model 'hf-hub:a/b'"),
        (TeacherConfig("timm:test_vit.none", Path(__file__)), "is text, not weights|Invalid pretrained tag"),
        (TeacherConfig("open_clip:ViT", Path(__file__)), "open_clip has no model 'ViT'; open_clip.list_models"),
        (
            TeacherConfig("torchscript", Path(__file__)),
            "test_teachers.py is not a TorchScript file .*; save it",
        ),
        (TeacherConfig("timm:test_vit", Path(__file__)), "test_teachers.py is text, not weights; use the file itself"),
        (TeacherConfig("nopackage.teacher"), "there is no teacher 'nopackage.teacher' .*; check teacher.name"),
        (TeacherConfig("math.teacher"), "there is no teacher 'math.teacher' .*; check teacher.name"),
        (TeacherConfig("builtins.repr"), "builtins.repr gives str; builtins.repr must take teacher.weights"),
        (
            TeacherConfig("math.sqrt"),
            r"teacher math.sqrt failed \(TypeError: .*\); math.sqrt must take teacher.weights",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, TeacherConfig) else "",
)
def test_mistakes_are_reported_in_one_sentence(config: TeacherConfig, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        load_teacher(config, 16, CPU)
    assert len(str(error.value).splitlines()) == 1


def test_weights_of_another_model_are_refused(tiny_clip: Any, tmp_path: Path) -> None:
    clip = saved(tiny_clip.state_dict(), tmp_path / "clip.pth")
    with pytest.raises(ValueError, match=r"clip.pth does not fit timm:test_vit \(Error.*\); give that model's weights"):
        load("timm:test_vit", clip)
    incomplete = timm.create_model("test_vit").state_dict()
    del incomplete["norm.bias"]
    path = saved(incomplete, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r'vit.pth does not fit timm:test_vit \(.*"norm.bias".*; give that'):
        load("timm:test_vit", path)
    torch.save({"teacher": incomplete}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"nested.pth holds no tensors by name; give .safetensors or a state dict"):
        load("timm:test_vit", tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"vit.pth does not fit open_clip:tiny-clip \(Error.*\); give that"):
        load("open_clip:tiny-clip", path)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_in_a_file_of_weights_is_executed(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "executed"
    ATTACKS[attack](path, marker)
    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **named: marker.touch())
    for name in ("timm:test_vit", "open_clip:ViT-B-16-quickgelu"):
        with pytest.raises(ValueError, match="evil.pth "):
            load(name, path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1).expand(1, 1, 10**12), "one value many times for cls_token"),
        (torch.zeros(1, 1, 64, dtype=torch.complex64), "complex64 for cls_token, expected float32 or"),
        (torch.zeros(1, 1, 64).to_sparse(), "a sparse_coo tensor for cls_token"),
        (torch.zeros(1, 1, 64, device="meta"), "a tensor without values"),
    ],
)
def test_tensors_that_are_not_dense_numbers_are_refused(value: Tensor, message: str, tmp_path: Path) -> None:
    torch.save({"cls_token": value}, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=f"vit.pth has {message}"):
        load("timm:test_vit", tmp_path / "vit.pth")


@pytest.mark.parametrize(("package", "name"), [("timm", "timm:test_vit"), ("open_clip", "open_clip:ViT-B-16")])
def test_a_missing_package_is_named(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package} is needed here \(.*\); pip install -c constraints.txt {package}"):
        load(name, Path(__file__))


@pytest.mark.parametrize(
    ("grid_size", "teacher_dim", "sentence"),
    [
        (
            4,
            512,
            "4 x 4 patches of 768 dimensions for images of 64 px, .* expects 4 x 4 of 512; set model.teacher_dim 768$",
        ),
        (8, 768, "expects 8 x 8 of 768; set teacher.image_size 128$"),
        (2, 512, "expects 2 x 2 of 512; set teacher.image_size 32 and set model.teacher_dim 768$"),
    ],
)
def test_features_of_another_shape_are_refused_with_a_remedy(grid_size: int, teacher_dim: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_teacher(load("pixels"), SIZE, grid_size, teacher_dim, CPU)


def test_features_that_are_not_patches_or_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gives the shape \(1, 3, 64, 64\); it must be \(B, patches, dimensions\)"):
        check_teacher(lambda pixels: pixels, SIZE, GRID, 3, CPU)
    with pytest.raises(ValueError, match="features of a grey image are not finite; its weights are broken, use others"):
        check_teacher(lambda pixels: load("pixels")(pixels) * torch.inf, SIZE, GRID, 768, CPU)


def test_any_exception_of_a_teacher_is_reported_in_one_sentence() -> None:
    def broken(pixels: torch.Tensor) -> torch.Tensor:
        raise KeyError("tokens")

    with pytest.raises(ValueError, match=r"the teacher takes no images of 32 px \('tokens'\)"):
        check_teacher(broken, 32, 2, 8, torch.device("cpu"))
