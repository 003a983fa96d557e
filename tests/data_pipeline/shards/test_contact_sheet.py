"""The contact sheet: whole pictures, and random views as in training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.check_shards import CheckOptions, draw_contact_sheet
from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.config import DataConfig
from data_pipeline.shards.contact_sheet import LINE, MARGIN, TILE, VIEW
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.writer import SampleFilter
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import index_folder, png, write_tar


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_the_sheet_shows_images_of_every_format_in_their_aspect(form: str, tmp_path: Path) -> None:
    Image.new("RGB", (60, 30), (200, 0, 0)).save(tmp_path / f"a.{form}")
    keep = SampleFilter(held_out_fraction=0)
    write_shards(ShardOptions("image", str(tmp_path), tmp_path / "out", keep=keep))
    sheet = np.asarray(draw_contact_sheet(CheckOptions(str(tmp_path / "out"), color_jitter=0))[0]).astype(int)
    rows, columns = np.nonzero(sheet[:, : MARGIN + VIEW, 0] - sheet[:, : MARGIN + VIEW, 1] > 150)
    assert (columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1) == pytest.approx(2, abs=0.1)


def test_the_sheet_shows_two_views_as_in_training(tmp_path: Path) -> None:
    """Each crop of this picture shows another part, at the size of a run."""
    levels = np.linspace(0, 255, 400).astype(np.uint8)
    Image.fromarray(np.tile(levels, (400, 1))).save(tmp_path / "a.png")
    write_shards(ShardOptions("image", str(tmp_path), tmp_path / "out", keep=SampleFilter(held_out_fraction=0)))
    index = read_index(tmp_path / "out")
    encoded = SampleReader(index, 10**9).image_bytes(0)
    options = CheckOptions(str(tmp_path / "out"), image_size=VIEW, seed=3)
    sheet = np.asarray(draw_contact_sheet(options)[0])
    transform = ImageTransform(VIEW, DataConfig.min_crop_scale, DataConfig.color_jitter, True, 10**9)
    top = LINE + MARGIN
    for draw in range(2):
        left = MARGIN + (draw + 1) * (VIEW + MARGIN)
        shown = sheet[top : top + VIEW, left : left + VIEW]
        expected = transform(encoded, np.random.Generator(np.random.Philox(key=[3, draw])))
        assert np.array_equal(shown, expected.transpose(1, 2, 0))


def test_both_images_of_a_statement_are_shown_beside_one_view(tmp_path: Path) -> None:
    colors = [(200, 0, 0), (0, 200, 0)]
    members = [(f"a.{name}", png(color)) for name, color in zip(("png", "image2.png"), colors, strict=True)]
    members += [("a.txt", b"one is green"), ("a.json", b'{"identifier": "a", "label": 1}')]
    index_folder(write_tar(tmp_path / "0.tar", members).parent, "nlvr2")
    sheet = np.asarray(draw_contact_sheet(CheckOptions(str(tmp_path), color_jitter=0))[0])
    centers = [MARGIN + place * (VIEW + MARGIN) + VIEW // 2 for place in range(3)]
    assert [tuple(sheet[LINE + MARGIN + VIEW // 2, x]) for x in centers] == [*colors, colors[0]]


def test_an_image_of_any_shape_is_shown(tmp_path: Path) -> None:
    for number, size in enumerate(((3000, 1), (1, 3000), (1, 1))):
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / f"{number}.png")
    write_shards(ShardOptions("image", str(tmp_path), tmp_path / "out", keep=SampleFilter(held_out_fraction=0)))
    sheet = np.asarray(draw_contact_sheet(CheckOptions(str(tmp_path / "out")))[0]).astype(int)
    for column in range(3):
        assert (sheet[:, column * TILE : column * TILE + MARGIN + VIEW, 0] > 190).any()
