"""pretrain.caption on a folder of images. CPU, seconds."""

import json
from pathlib import Path

import pytest

from data_pipeline.samples.scenes import draw_samples
from model import load_pretrained
from pretrain.caption import caption
from pretrain.inference.options import CaptionOptions
from tests.support.opened import write_export
from tests.support.tiny_run import TinyData


@pytest.mark.parametrize("num_beams", [1, 3])
def test_captions_are_those_of_python_and_broken_images_are_named(
    num_beams: int, tiny_data: TinyData, tmp_path: Path
) -> None:
    export, pictures, out = write_export(tmp_path / "export", tiny_data), tmp_path / "pictures", tmp_path / "out.jsonl"
    pictures.mkdir()
    for number, sample in enumerate(draw_samples("image", 6)):
        assert sample.image is not None
        (pictures / f"{number}.png").write_bytes(sample.image if number != 2 else sample.image[:200])
    report = caption(
        CaptionOptions(
            source=export, images=str(pictures), out=out, device="cpu", batch_size=4, num_workers=1, num_beams=num_beams
        )
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["key"] for line in lines] == [f"{number}.png" for number in range(6)]
    assert lines[2]["skipped"].startswith("image cannot be decoded")
    good = [path for path in sorted(pictures.iterdir()) if path.name != "2.png"]
    expected = load_pretrained(export, device="cpu").caption(good, num_beams)
    assert [line["caption"] for line in lines if "caption" in line] == expected
    assert all(line["score"] < 0 for line in lines if "caption" in line)
    assert f"{out}: 5 captions" in report and "skipped 1: image cannot be decoded" in report
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.jsonl"):
        caption(CaptionOptions(source=tmp_path, images="a", out=tmp_path / "captions.txt"))
