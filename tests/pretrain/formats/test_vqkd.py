"""BEiT v2's tokenizer files: layout, strict loading, and codes compared with the formulas. CPU, seconds."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer, init_visual_tokenizer
from pretrain.formats.vqkd import save_vqkd, vqkd_entries
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from tests.support.crafted import ATTACKS
from tests.support.unreadable import forbidden

SMALL = VisualTokenizerConfig(
    image_size=32, patch_size=8, dim=64, num_heads=1, encoder_depth=2, decoder_depth=1, num_codes=30, code_dim=8,
    teacher_dim=12,
)  # fmt: skip


def published_shapes(decoder_depth: int, teacher_dim: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes in the published files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for part, channels, patch, depth in (("encoder", 3, 16, 12), ("decoder", 32, 1, decoder_depth)):
        shapes |= {
            f"{part}.cls_token": (1, 1, 768),
            f"{part}.pos_embed": (1, 197, 768),
            f"{part}.patch_embed.proj.weight": (768, channels, patch, patch),
            f"{part}.patch_embed.proj.bias": (768,),
            f"{part}.fc_norm.weight": (768,),
            f"{part}.fc_norm.bias": (768,),
        }
        for block in range(depth):
            shapes |= {
                f"{part}.blocks.{block}.{name}": shape
                for name, shape in {
                    "norm1.weight": (768,),
                    "norm1.bias": (768,),
                    "attn.q_bias": (768,),
                    "attn.v_bias": (768,),
                    "attn.qkv.weight": (2304, 768),
                    "attn.proj.weight": (768, 768),
                    "attn.proj.bias": (768,),
                    "norm2.weight": (768,),
                    "norm2.bias": (768,),
                    "mlp.fc1.weight": (3072, 768),
                    "mlp.fc1.bias": (3072,),
                    "mlp.fc2.weight": (768, 3072),
                    "mlp.fc2.bias": (768,),
                }.items()
            }
    for part, width in (("encode", 32), ("decode", teacher_dim)):
        shapes |= {
            f"{part}_task_layer.0.weight": (768, 768),
            f"{part}_task_layer.0.bias": (768,),
            f"{part}_task_layer.2.weight": (width, 768),
            f"{part}_task_layer.2.bias": (width,),
        }
    return shapes | {
        "quantize.cluster_size": (8192,),
        "quantize.embedding.weight": (8192, 32),
        "quantize.embedding.cluster_size": (8192,),
        "quantize.embedding.embed_avg": (8192, 32),
        "quantize.embedding.initted": (1,),
    }


def random_file(decoder_depth: int = 3, teacher_dim: int = 512) -> dict[str, Tensor]:
    """Return random weights in the published layout, large enough for patches to differ."""
    generator = torch.Generator().manual_seed(0)
    entries = {}
    for name, shape in published_shapes(decoder_depth, teacher_dim).items():
        tensor = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            tensor = 1 + 0.1 * tensor
        elif len(shape) > 1 and not name.startswith("quantize"):
            tensor *= 0.05
        elif not name.startswith("quantize"):
            tensor *= 0.02
        entries[name] = tensor
    entries["encoder.pos_embed"] *= 10
    entries["quantize.embedding.weight"] = F.normalize(entries["quantize.embedding.weight"], dim=-1)
    entries["quantize.embedding.initted"] = torch.ones(1)
    return entries


def reference_codes(entries: dict[str, Tensor], pixels: Tensor, num_heads: int = 12) -> Tensor:
    """Return codes by the formulas of BEiT v2: pixels (B, 3, H, W) in [0, 1] -> (B, patches)."""
    x = F.conv2d(
        pixels * 255 / 127.5 - 1,
        entries["encoder.patch_embed.proj.weight"],
        entries["encoder.patch_embed.proj.bias"],
        stride=entries["encoder.patch_embed.proj.weight"].shape[-1],
    )
    height, width = x.shape[2:]
    positions = entries["encoder.pos_embed"]
    side = round((positions.shape[1] - 1) ** 0.5)
    if (height, width) != (side, side):
        grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=((height + 0.1) / side, (width + 0.1) / side), mode="bicubic")
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    x = torch.cat([entries["encoder.cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + positions
    depth = len({name.split(".")[2] for name in entries if name.startswith("encoder.blocks")})
    for block in range(depth):
        p = {n.split(".", 3)[3]: t for n, t in entries.items() if n.startswith(f"encoder.blocks.{block}.")}
        y = F.layer_norm(x, x.shape[-1:], p["norm1.weight"], p["norm1.bias"], 1e-6)
        bias = torch.cat([p["attn.q_bias"], torch.zeros_like(p["attn.q_bias"]), p["attn.v_bias"]])
        qkv = F.linear(y, p["attn.qkv.weight"], bias).reshape(len(x), x.shape[1], 3, num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(y, p["attn.proj.weight"], p["attn.proj.bias"])
        y = F.layer_norm(x, x.shape[-1:], p["norm2.weight"], p["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
        x = x + F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
    x = F.layer_norm(x[:, 1:], x.shape[-1:], entries["encoder.fc_norm.weight"], entries["encoder.fc_norm.bias"], 1e-6)
    x = F.linear(x, entries["encode_task_layer.0.weight"], entries["encode_task_layer.0.bias"]).tanh()
    z = F.linear(x, entries["encode_task_layer.2.weight"], entries["encode_task_layer.2.bias"]).flatten(0, 1)
    z, codes = F.normalize(z, dim=-1), entries["quantize.embedding.weight"]
    distance = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    return distance.argmin(1).view(len(pixels), -1)


def test_names_shapes_and_number_of_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        entries = vqkd_entries(VisualTokenizer(VisualTokenizerConfig()))
    assert {name: tuple(tensor.shape) for name, tensor in entries.items()} == published_shapes(3, 512)
    assert len(entries) == 220
    buffers = ("quantize.cluster_size", "quantize.embedding.initted")
    assert sum(tensor.numel() for name, tensor in entries.items() if name not in buffers) == 109_361_696
    counts = {
        part: sum(tensor.numel() for name, tensor in entries.items() if name.startswith(f"{part}."))
        for part in ("encoder", "decoder")
    }
    assert counts == {"encoder": 85_789_440, "decoder": 21_440_256}


@pytest.mark.slow
@torch.no_grad()
def test_a_file_in_the_published_layout_loads_and_gives_the_codes_of_the_formulas(tmp_path: Path) -> None:
    entries, path = random_file(), tmp_path / "vqkd.pth"
    extra = {"teacher_model.visual.proj": torch.zeros(3), "scaling_layer.shift": torch.zeros(1)}
    torch.save({"model": entries | extra, "args": argparse.Namespace(lr=1.0), "epoch": 99}, path)
    tokenizer = load_visual_tokenizer(path)
    assert tokenizer.config == VisualTokenizerConfig()
    for size, num_patches in ((224, 196), (256, 256)):
        pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(size))
        codes, expected = tokenizer.tokenize(pixels), reference_codes(entries, pixels)
        assert codes.shape == (1, num_patches) and len(codes.unique()) > 50
        assert torch.equal(codes, expected)


@pytest.mark.parametrize(("decoder_depth", "teacher_dim", "key"), [(1, 512, "model"), (1, 768, "state_dict")])
def test_the_other_published_layouts_load(decoder_depth: int, teacher_dim: int, key: str, tmp_path: Path) -> None:
    path = tmp_path / "vqkd.pth"
    torch.save({key: random_file(decoder_depth, teacher_dim)}, path)
    config = load_visual_tokenizer(path).config
    assert config == VisualTokenizerConfig(decoder_depth=decoder_depth, teacher_dim=teacher_dim)


def small_tokenizer() -> VisualTokenizer:
    tokenizer = VisualTokenizer(SMALL)
    init_visual_tokenizer(tokenizer, 0.1, seed=0)
    tokenizer.codebook.start(tokenizer.features(torch.rand(3, 3, 32, 32)).detach().flatten(0, 1))
    return tokenizer


def test_a_written_tokenizer_is_such_a_file_and_loads_unchanged(tmp_path: Path) -> None:
    tokenizer, path = small_tokenizer(), tmp_path / "ours.pt"
    save_vqkd(tokenizer, path)
    again = load_visual_tokenizer(path)
    assert again.config == SMALL
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tokenizer.state_dict().items())
    content = torch.load(path, weights_only=True)
    assert content["config"] == asdict(SMALL)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(reference_codes(content["model"], pixels, num_heads=1), again.tokenize(pixels))
    assert [child.name for child in tmp_path.iterdir()] == ["ours.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("encoder.blocks.1.attn.q_bias"), "has nothing for encoder.blocks.1.attn.q_bias, expected"),
        (lambda e: e.update({"encoder.more": torch.zeros(1)}), r"has \(1,\) for encoder.more, expected nothing"),
        (lambda e: e.update({"decoder.cls_token": torch.zeros(3)}), r"has \(3,\) for decoder.cls_token, exp"),
        (lambda e: e.update({"quantize.embedding.initted": torch.zeros(1)}), "has a codebook that was never trained"),
        (lambda e: e.pop("encoder.pos_embed"), "is not a visual tokenizer"),
        (lambda e: e.pop("quantize.embedding.weight"), "is not a visual tokenizer of a known kind"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_exactly_a_tokenizer_is_refused(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    entries, path = dict(vqkd_entries(small_tokenizer())), tmp_path / "file.pth"
    change(entries)
    torch.save({"model": entries}, path)
    with pytest.raises(ValueError, match=message):
        load_visual_tokenizer(path)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_in_a_file_is_executed(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, marker = tmp_path / "file.pth", tmp_path / "executed"
    ATTACKS[attack](path, marker)
    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **named: marker.touch())
    with pytest.raises(ValueError, match="file.pth "):
        load_visual_tokenizer(path)
    assert not marker.exists()


NAME = "encoder.blocks.0.mlp.fc1.weight"


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * torch.nan, "NaN or infinity for {name}, in 16384 of 16384 elements; use a valid file"),
        (lambda value: value.index_fill(0, torch.tensor(0), torch.inf), "NaN or infinity for {name}, in 64 of"),
        (lambda value: value.long(), "int64 for {name}, expected float32"),
        (lambda value: value.half(), "float16 for {name}, expected float32"),
        (lambda value: value.double(), "float64 for {name}, expected float32"),
        (lambda value: value.to(torch.complex64), "complex64 for {name}, expected float32"),
        (lambda value: value.to_sparse(), "a sparse_coo tensor for {name}, expected a dense one"),
        (lambda value: value.to("meta"), "a tensor without values .meta. for {name}"),
        (lambda value: value[:1, :1].expand(value.shape), "one value many times for {name}"),
        (lambda value: value.T, r".64, 256. for {name}, expected .256, 64."),
        (lambda value: value.tolist(), "a list instead of a tensor for {name}, expected a tensor"),
    ],
)
def test_a_visual_tokenizer_with_unsound_weights_is_refused_with_what_is_wrong(
    change: Callable[[Tensor], object], message: str, with_config: bool, tmp_path: Path
) -> None:
    tokenizer, path = small_tokenizer(), tmp_path / "file.pth"
    entries: dict[str, object] = dict(vqkd_entries(tokenizer))
    entries[NAME] = change(vqkd_entries(tokenizer)[NAME])
    content = {"model": entries} | ({"config": asdict(SMALL)} if with_config else {})
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"^{path} has {message.format(name=NAME)}"):
        load_visual_tokenizer(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_depth": 10**9},
        {"dim": 10**6, "num_heads": 1},
        {"dim": "wide"},
        {"dim": -1},
        {"num_codes": 10**12},
        {"unknown": 1},
        {"patch_size": 0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_sizes_that_are_not_those_of_the_weights_are_refused_before_a_network_is_built(
    changes: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    torch.save({"config": {**asdict(SMALL), **changes}, "model": vqkd_entries(small_tokenizer())}, path)
    with pytest.raises(ValueError, match=f"^{path} ") as error:
        load_visual_tokenizer(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_tokenizer_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    save_vqkd(small_tokenizer(), path)
    with forbidden(path), pytest.raises(PermissionError):
        load_visual_tokenizer(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="file.pth is cut off or damaged"):
        load_visual_tokenizer(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="file.pth is a git-LFS pointer, not the file itself; run git lfs pull"):
        load_visual_tokenizer(path)
