"""Galleries of a run, or the reason why there is none. CPU, seconds."""

import json
from pathlib import Path

from pretrain.reporting.options import ReportOptions
from pretrain.reporting.pictures import held_out_folder, pictures_of
from pretrain.reporting.run_files import read_run
from tests.support.tiny_run import TinyData
from tests.support.written_runs import write_run


def test_what_is_missing_is_said_once(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    bare = write_run(tmp_path / "bare")
    shown = pictures_of(read_run(bare), ReportOptions((bare,)))
    assert shown.missing == [f"No pictures: {bare} has no checkpoints."]
    (bare / "checkpoints").mkdir()
    shown = pictures_of(read_run(bare), ReportOptions((bare,), held_out=tiny_data.folder / "pairs"))
    assert shown.missing == [f"No pictures: run {bare} has no complete checkpoint yet."] and shown.patches is None
    shown = pictures_of(read_run(two_ranks), ReportOptions((two_ranks,)))
    assert len(shown.missing) == 1 and "give some with --held-out FOLDER" in shown.missing[0]


def test_one_gallery_does_not_need_the_other(two_ranks: Path, tiny_data: TinyData) -> None:
    options = ReportOptions((two_ranks,), held_out=tiny_data.folder / "images", num_images=2, num_example_images=20)
    shown = pictures_of(read_run(two_ranks), options)
    assert shown.step == 8 and shown.patches is not None and len(shown.patches.images) == 2
    assert not shown.captions and len(shown.missing) == 1 and shown.missing[0].startswith("No captions: ")


def test_held_out_shards_are_those_of_the_runs_evaluation(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    evaluation = {"pairs": "s3://bucket/pairs", "images": str(tmp_path / "images"), "every_steps": 10}
    run = read_run(write_run(tmp_path / "run", config={"evaluation": evaluation}))
    assert held_out_folder(run, ReportOptions((run.folder,))) == tmp_path / "images"
    assert held_out_folder(run, ReportOptions((run.folder,), held_out=Path("given"))) == Path("given")
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(config | {"evaluation": None}))
    assert held_out_folder(read_run(run.folder), ReportOptions((run.folder,))) is None
    (tmp_path / "pairs.jsonl").touch()  # a contrastive run takes any source of pairs
    evaluation = {"pairs": str(tmp_path / "pairs.jsonl")}
    run = read_run(write_run(tmp_path / "contrastive", config={"evaluation": evaluation}))
    assert held_out_folder(run, ReportOptions((run.folder,))) == tmp_path / "pairs.jsonl"
