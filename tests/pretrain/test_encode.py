"""pretrain.encode on every kind of source. CPU, seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from data_pipeline.samples.scenes import draw_samples
from model import PretrainedModel, load_pretrained
from pretrain.encode import encode
from pretrain.evaluation.chunks import NotFiniteError
from pretrain.formats.preprocessing import write_preprocessing
from pretrain.inference.encoding import as_saved
from pretrain.inference.feature_files import keys_path
from pretrain.inference.options import EncodeOptions
from tests.support.opened import LENGTH, PREPROCESSING, write_export
from tests.support.tiny_run import TinyData


@pytest.fixture(scope="module")
def export(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("encode") / "export", tiny_data)


@pytest.fixture(scope="module")
def model(export: Path) -> PretrainedModel:
    return load_pretrained(export, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of nine pictures and a broken one, 04.png."""
    folder: Path = tmp_path_factory.mktemp("pictures")
    for number, sample in enumerate(draw_samples("image", 10)):
        assert sample.image is not None
        (folder / f"{number:02d}.png").write_bytes(sample.image if number != 4 else sample.image[:200])
    return folder


def run(export: Path, out: Path, **options: Any) -> str:
    return encode(EncodeOptions(source=export, out=out, device="cpu", batch_size=4, num_workers=1, **options))


def keys(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in keys_path(path).read_text().splitlines()]


@pytest.mark.parametrize("pool", [None, "mean", "map"])
def test_images_of_a_folder_are_encoded_as_from_python_and_a_broken_one_is_named(
    pool: Any, export: Path, model: PretrainedModel, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features.npy"
    report = run(export, out, images=str(pictures), pool=pool)
    good = [path for path in sorted(pictures.iterdir()) if path.name != "04.png"]
    expected = model.encode_image(good, pool)
    torch.testing.assert_close(torch.from_numpy(np.load(out)), expected, atol=2e-6, rtol=0)
    lines = keys(out)
    assert [line["key"] for line in lines] == [f"{number:02d}.png" for number in range(10)]
    assert [line.get("row") for line in lines] == [0, 1, 2, 3, None, 4, 5, 6, 7, 8]
    assert lines[4]["skipped"].startswith("image cannot be decoded")
    assert "skipped 1: image cannot be decoded; the first: " in report and "04.png" in report
    assert f"{out}: 9 x " in report


def test_texts_are_cut_as_in_training_and_counted(export: Path, model: PretrainedModel, tmp_path: Path) -> None:
    texts = ["a star", "", "a big red circle at the left on white and a star and a cross", "a cross"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    out = tmp_path / "features.npy"
    report = run(export, out, texts=str(tmp_path / "texts.txt"), pool="tokens")
    expected = model.encode_text([texts[0], *texts[2:]], "tokens", truncate=True)
    torch.testing.assert_close(torch.from_numpy(np.load(out)), expected, atol=2e-6, rtol=0)
    assert "cut 1 texts to the 10 tokens of training" in report and expected.shape[1] == LENGTH
    assert [line.get("tokens") for line in keys(out)][1:3] == [None, LENGTH]


def test_pairs_of_shards_are_encoded_into_parquet_by_layers(
    export: Path, model: PretrainedModel, tiny_data: TinyData, tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"
    report = run(export, out, pairs=str(tiny_data.folder / "pairs"), pool="mean", layers="3,1", save_as="float16")
    table = pyarrow.parquet.read_table(out)
    assert json.loads(table.schema.metadata[b"shape"]) == [2, 32] and "mean of the tokens after blocks 3, 1" in report
    scenes = list(draw_samples("pair", 40))
    by_key = dict(zip(table["key"].to_pylist(), table["features"].to_pylist(), strict=True))
    for scene in scenes[::13]:
        assert scene.image is not None and scene.text is not None
        expected = model.encode_pair(scene.image, scene.text, "mean", (3, 1), truncate=True)
        found = torch.tensor(by_key[scene.key]).view(2, 32)
        torch.testing.assert_close(found, expected[0], atol=4e-3, rtol=2e-3)


def test_a_source_without_a_readable_sample_writes_nothing(export: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="holds no image that can be read; docs/data.md lists"):
        run(export, tmp_path / "features.npy", images=str(tmp_path / "pictures"))
    assert not list(tmp_path.glob("features*"))


def test_images_are_cropped_as_the_weights_were_trained(tiny_data: TinyData, tmp_path: Path) -> None:
    folder, wide = write_export(tmp_path / "export", tiny_data), Image.linear_gradient("L").rotate(90).resize((90, 30))
    write_preprocessing(replace(PREPROCESSING, crop_mode="center"), folder)
    (tmp_path / "pictures").mkdir()
    wide.save(tmp_path / "pictures" / "wide.png")
    run(folder, tmp_path / "features.npy", images=str(tmp_path / "pictures"))
    expected = load_pretrained(folder, device="cpu").encode_image(wide.crop((30, 0, 60, 30)))
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "features.npy")), expected, atol=2e-6, rtol=0)


def test_features_that_are_not_finite_are_named_and_not_written(
    tiny_data: TinyData, pictures: Path, tmp_path: Path
) -> None:
    folder = write_export(tmp_path / "export", tiny_data)
    write_preprocessing(replace(PREPROCESSING, std=(1e-40,) * 3), folder)
    with pytest.raises(ValueError, match=rf"hold NaN or infinity for 4 of 4 samples \({pictures}/00.png, "):
        run(folder, tmp_path / "features.npy", images=str(pictures))
    assert not (tmp_path / "features.npy").exists()


def test_an_image_of_too_many_pixels_is_skipped_as_in_training(export: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image exceeds max_image_pixels"):
        run(export, tmp_path / "features.npy", images=str(pictures), max_image_pixels=50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of --images, --texts and --pairs"),
        ({"images": "a", "texts": "b"}, "give one of --images, --texts and --pairs"),
        ({"images": "a", "out": Path("features.csv")}, "--out features.csv must end in .npy or .parquet"),
        ({"images": "a", "out": Path("nowhere/features.npy")}, "the folder nowhere does not exist; make it"),
        ({"images": "a", "layers": "3;4"}, "--layers '3;4' must be numbers of blocks, separated by commas"),
        ({"images": "a", "layers": "9"}, "layer 9 is not a block"),
        ({"images": "a", "pool": "projected"}, "no contrastive heads"),
        ({"images": "nowhere"}, "source nowhere does not exist"),
    ],
)
def test_mistakes_are_one_sentence(export: Path, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"source": export, "out": tmp_path / "features.npy", "device": "cpu", "num_workers": 1, **options}
    with pytest.raises(ValueError, match=message):
        encode(EncodeOptions(**given))


def test_a_dual_encoder_gives_unit_vectors_of_images_and_texts_alike(tiny_data: TinyData, tmp_path: Path) -> None:
    export, pairs = write_export(tmp_path / "dual", tiny_data, is_dual=True), str(tiny_data.folder / "pairs")
    for name, options in (("images", {"images": pairs}), ("texts", {"texts": pairs})):
        assert "projected by the contrastive head" in run(export, tmp_path / f"{name}.npy", **options)
    images, texts = (torch.from_numpy(np.load(tmp_path / f"{name}.npy")) for name in ("images", "texts"))
    assert keys(tmp_path / "images.npy")[7]["key"] == keys(tmp_path / "texts.npy")[7]["key"]
    scene = next(scene for scene in draw_samples("pair", 40) if scene.key == keys(tmp_path / "images.npy")[7]["key"])
    assert scene.image is not None and scene.text is not None
    expected = load_pretrained(export, device="cpu").similarity(scene.image, scene.text, truncate=True)
    torch.testing.assert_close(images[7] @ texts[7], expected[0, 0], atol=1e-5, rtol=0)


def test_features_too_large_for_half_precision_are_refused_by_name() -> None:
    rows = torch.tensor([[1.0, 65504.0], [2.0, -70000.0], [3.0, 0.1]])
    with pytest.raises(
        ValueError, match=r"1 of 3 samples are too large for float16: b.png has 7e\+04, the largest number"
    ):
        as_saved(rows, "float16", ["a.png", "b.png", "c.png"].__getitem__)
    assert as_saved(rows, "float32", str) is rows
    assert torch.equal(as_saved(rows[::2], "float16", str), rows[::2].half())
    rows[2, 1] = torch.inf
    with pytest.raises(NotFiniteError, match=r"1 of 3 samples \(c.png\)"):
        as_saved(rows, "float16", ["a.png", "b.png", "c.png"].__getitem__)


def test_no_file_is_left_if_features_are_too_large(
    export: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_of = PretrainedModel.features_of

    def large(model: PretrainedModel, *arguments: Any) -> torch.Tensor:
        return features_of(model, *arguments) * 1e8

    monkeypatch.setattr(PretrainedModel, "features_of", large)
    with pytest.raises(ValueError, match=r"too large for float16: .*00\.png has .*; give --save-as float32"):
        run(export, tmp_path / "features.npy", images=str(pictures), save_as="float16")
    assert list(tmp_path.iterdir()) == []
