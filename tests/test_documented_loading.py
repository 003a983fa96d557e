"""Lines in docs/converting.md, docs/transformers.md and in model cards that load an export, as typed by a user.

CPU, half a minute.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.samples.scenes import draw_samples
from model.pretrained import save_network
from pretrain.conversion.convert import convert
from pretrain.conversion.options import ConvertOptions
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.launch import ON_CPU, ROOT, python_path
from tests.support.opened import write_export
from tests.support.tiny import CONFIG, tiny_model
from tests.support.tiny_run import TinyData


@pytest.fixture(scope="module")
def exports(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the exports named in the documentation: out, out_timm, ours."""
    folder: Path = tmp_path_factory.mktemp("exports")
    ours = folder / "ours"
    ours.mkdir()
    weights = dict(tiny_model(vocab_size=120).state_dict())
    save_network(weights, tiny_model(vocab_size=120).encoder.config, ours)
    (ours / "text_tokenizer.spm").write_bytes((tiny_data.folder / "text_tokenizer.spm").read_bytes())
    convert(ConvertOptions(ours, folder / "out", "beit3", "safetensors"))
    convert(ConvertOptions(ours, folder / "out_timm", "timm", "safetensors"))
    convert(ConvertOptions(ours, folder / "out_transformers", "transformers", "safetensors"))
    return folder


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def typed(lines: str, folder: Path) -> str:
    """Return the output of Python for these lines, run in that folder."""
    environment = {**os.environ, **ON_CPU, "PYTHONPATH": python_path()}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


BESIDE_CPU_TORCH = "import pretrain.formats.cpu_torchvision\n"
LOADED, EXPORTED = python_blocks((ROOT / "docs" / "transformers.md").read_text())
TORCHSCALE, TIMM, HERE = python_blocks((ROOT / "docs" / "converting.md").read_text())


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        pytest.param(TORCHSCALE, "model", id="torchscale", marks=pytest.mark.slow),
        pytest.param(TIMM, "tower", id="timm", marks=pytest.mark.slow),  # the cards' lines, below, are the same
    ],
)
def test_documented_lines_load_the_export_of_the_documented_command(lines: str, name: str, exports: Path) -> None:
    printed = typed(f"{lines}\nprint(sum(parameter.numel() for parameter in {name}.parameters()))", exports)
    assert int(printed) > 10_000


def test_documented_lines_load_our_own_format(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exports)
    names: dict[str, Any] = {}
    exec(HERE, names)
    assert names["model"].network.encoder.config.depth == CONFIG.depth


@pytest.mark.parametrize(("folder", "name"), [("out", "model"), ("out_timm", "tower"), ("again", "model")])
def test_the_lines_of_a_card_load_the_file_beside_it(
    folder: str, name: str, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_beside_cpu_torch("timm")  # like the first documented line
    if folder == "again":
        convert(ConvertOptions(exports / "ours", exports / "again", "safetensors", "safetensors", verify=False))
    (lines,) = python_blocks((exports / folder / "README.md").read_text())
    monkeypatch.chdir(exports / folder)
    names: dict[str, Any] = {}
    exec(lines, names)
    loaded = getattr(names[name], "network", names[name])  # of our own format, there is an object around the network
    assert sum(parameter.numel() for parameter in loaded.parameters()) > 10_000


FEATURES = [
    lines
    for page in ("README.md", "docs/features.md")
    for lines in [("\n".join(python_blocks((ROOT / page).read_text())))]
    if "load_pretrained" in lines
]


@pytest.mark.parametrize("lines", FEATURES)
def test_documented_lines_give_features_similarities_and_captions(
    lines: str, tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path / "runs" / "laptop", tiny_data)
    write_export(tmp_path / "runs" / "contrast_laptop", tiny_data, is_dual=True)
    for name, sample in zip(("picture.jpg", "other.png"), draw_samples("image", 2), strict=True):
        assert sample.image is not None
        (tmp_path / name).write_bytes(sample.image)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(lines, names)
    assert names["features"].shape == (1, CONFIG.dim)
    if "similarity(" in lines:
        assert names["cosines"].shape == (2, 2) and names["maps"].shape == (2, 2, CONFIG.dim, 4, 4)
        assert len(names["captions"]) == 2


MAPS, HEAD, DETECTOR, WRAPPER, TIMM_MAPS = python_blocks((ROOT / "docs" / "dense_features.md").read_text())


def squares(count: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of noise with a brighter square at a random place, of sides that patches do not divide, and which
    pixels it covers."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        images = torch.randint(0, 128, (8, 3, 44, 52), generator=generator, dtype=torch.uint8)
        labels = torch.zeros(8, 44, 52, dtype=torch.int64)
        for label, top, left in zip(labels, *torch.randint(0, 24, (2, 8), generator=generator), strict=True):
            label[top : top + 20, left : left + 20] = 1
        yield images + 90 * labels[:, None].to(torch.uint8), labels


def test_documented_lines_train_a_dense_head_and_a_step_of_a_detector(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path / "runs" / "laptop", tiny_data)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"batches": squares(40, seed=0)}
    torch.manual_seed(0)
    exec(MAPS, names)
    assert [maps.shape for maps in names["maps"]] == [(2, CONFIG.dim, 12, 15)] * CONFIG.depth
    exec(HEAD, names)
    ((pictures, labels),) = squares(1, seed=1)
    found = names["segmenter"](names["model"].inputs(pictures)).argmax(1)
    overlap = ((found == 1) & (labels == 1)).sum() / ((found == 1) | (labels == 1)).sum()
    assert overlap > 0.6  # to name every pixel: 0.17
    exec(DETECTOR, names)
    assert all(loss.isfinite() and loss > 0 for loss in names["losses"].values())
    first = names["pyramid"].backbone.blocks[0].attn.qkv.shared.weight
    assert first.grad is not None and first.grad.abs().max() > 0
    exec(WRAPPER, names)
    maps = names["Beit3Pyramid"]("runs/laptop", window=2, out_channels=8)(torch.randn(1, 3, 64, 40))
    assert [tuple(level.shape) for level in maps] == [(1, 8, 32, 24), (1, 8, 16, 12), (1, 8, 8, 6), (1, 8, 4, 3)]


def test_documented_lines_take_maps_from_timm(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_beside_cpu_torch("timm")
    monkeypatch.chdir(exports)
    names: dict[str, Any] = {"torch": torch}
    exec(TIMM_MAPS, names)
    assert [maps.shape for maps in names["tower_maps"]] == [(2, CONFIG.dim, 4, 4)] * 2


def test_the_lines_of_a_card_for_transformers_load_and_use_the_folder(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    card = (exports / "out_transformers" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "\n# license: " in card
    (lines,) = python_blocks(card)
    shown = "\nprint(tuple(of_image.shape), tuple(words.shape), type(caption).__name__)"
    printed = typed(BESIDE_CPU_TORCH + lines + shown, exports / "out_transformers")
    assert printed.endswith(f"(1, {CONFIG.num_image_tokens}, {CONFIG.dim}) (1, 5, 120) str\n"), printed


@pytest.mark.slow
def test_documented_lines_use_and_export_the_folder_for_transformers(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "(2, " in typed(BESIDE_CPU_TORCH + LOADED + EXPORTED, exports)
    assert (exports / "pair.onnx").stat().st_size > 10_000
