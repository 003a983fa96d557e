"""Mistakes of users: one clear sentence and a non-zero exit on every rank. CPU, half a minute."""

import io
import json
import re
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_pipeline.index_shards import IndexOptions, index_shards
from pretrain.jobs.pretraining import Pretraining
from pretrain.recipes import RECIPES
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.bad_samples import read_bad_samples
from pretrain.survival.stop import EXIT_STOPPED_BY_FILE
from tests.support.launch import RankProcess, run_ranks
from tests.support.mistakes import option_mistake, preparation_mistake
from tests.support.tiny_run import TinyData


def error_of(arguments: list[str], num_ranks: int) -> str:
    """Return the only line on standard error of a run that fails, which must come from the main rank."""
    ended = run_ranks(num_ranks, "pretrain.train", arguments)
    assert ended.exit_codes == [2] * num_ranks, ended.stderr
    assert "".join(ended.stderr[1:]) == ""
    (line,) = ended.stderr[0].splitlines()
    assert line.startswith("error: ")
    return line


def test_a_wrong_recipe_name_ends_all_ranks_with_one_sentence() -> None:
    line = error_of(["dmeo"], num_ranks=2)
    assert line.startswith("error: there is no recipe 'dmeo'; did you mean demo?; choose one of: demo, laptop")


def test_an_unwritable_run_folder_ends_all_ranks_with_one_sentence(tiny_data: TinyData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = error_of(["demo", *tiny_data.overrides(tmp_path / "file" / "run")], num_ranks=2)
    assert f"run_dir {tmp_path / 'file' / 'run'} cannot be written" in line


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            ["--optimizer.peaklr", "1"],
            "no option --optimizer.peaklr; did you mean --optimizer.peak-lr?; pretrain.train",
        ),
        (["--num-stepss", "9"], "no option --num-stepss; did you mean --num-steps?"),
        (["--num-steps", "many"], "--num-steps many must be an integer from 1 to 1,000,000,000"),
        (["--optimizer.peak-lr", "nan"], "--optimizer.peak-lr nan must be a number from 0 to 1,000"),
        (["--hang-seconds", "inf"], "--hang-seconds inf must be a number in (0, 1,000,000]"),
        (["--seed", str(2**64)], f"--seed {2**64} must be an integer from 0 to 9,223,372,036,854,775,805"),
        (["--visual-tokenizer", ""], "--visual-tokenizer '' must be a path"),
        (["--model.dim", "32"], "num_heads 6 must divide dim 32"),
        (["--precision", "float16"], "--precision float16 must be one of bfloat16, float32"),
    ],
)
def test_an_unknown_or_ill_typed_override(
    override: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in option_mistake(RECIPES, ["demo", *override], capsys)


def test_a_missing_shard_folder(tiny_data: TinyData, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    line = mistake([*tiny_data.overrides(tmp_path / "run"), "--data.pairs", str(missing)])
    assert f"shard folder {missing} does not exist" in line


def mistake(overrides: list[str]) -> str:
    return preparation_mistake(Pretraining, RECIPES, ["demo", *overrides])


def wait_for_steps(run_dir: Path, num_steps: int) -> None:
    deadline = time.monotonic() + 120
    while not (run_dir / LOG_NAME).exists() or len(read_log(run_dir)) < num_steps:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_empty_shard(tiny_data: TinyData, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(tiny_data.folder / "images", folder)
    with tarfile.open(folder / "000001.tar", "w"):  # an archive without members instead of one with samples
        pass
    line = mistake([*tiny_data.overrides(tmp_path / "run"), "--data.images", str(folder)])
    assert f"shard {folder / '000001.tar'} is missing or not the one that was indexed" in line
    indexed = run_ranks(1, "data_pipeline.index_shards", ["image", folder], fresh=True)
    assert indexed.exit_codes == [0]
    assert "skipped 1: shard without a sample; the first: 000001.tar" in indexed.stdout[0]


def test_a_batch_that_the_ranks_do_not_divide(tiny_data: TinyData, tmp_path: Path) -> None:
    line = mistake([*tiny_data.overrides(tmp_path / "run"), "--gradient-accumulation-steps", "3"])
    assert "images_per_step 4 must be a multiple of 1 rank x gradient_accumulation_steps 3" in line


def test_a_setting_in_the_wrong_file(tiny_data: TinyData, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3}, "gradient_clipping": 1.0}')
    overrides = [*tiny_data.overrides(tmp_path / "run"), "--deepspeed-config", str(tmp_path / "ds.json")]
    assert "sets gradient_clipping, which the recipe owns" in mistake(overrides)


@pytest.mark.parametrize("zero", [{"stage": 0}, {}, {"stage": 2, "round_robin_gradients": True}])
def test_deepspeed_settings_that_would_train_wrongly_are_refused(
    zero: dict[str, Any], tiny_data: TinyData, tmp_path: Path
) -> None:
    deepspeed_config = tmp_path / "ds.json"
    deepspeed_config.write_text(json.dumps({"zero_optimization": zero}))
    overrides = [*tiny_data.overrides(tmp_path / "run"), "--deepspeed-config", str(deepspeed_config)]
    assert f"{deepspeed_config} must" in mistake(overrides)


def damaged_pairs(tiny_data: TinyData, folder: Path, keep: int) -> None:
    """Write pair shards in which every `keep`-th image is damaged, so that only decoding shows it."""
    folder.mkdir()
    for path in sorted((tiny_data.folder / "pairs").glob("*.tar")):
        with tarfile.open(path) as source, tarfile.open(folder / path.name, "w") as target:
            for number, member in enumerate(m for m in source if not m.name.endswith(".json")):
                content = source.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".png") and number // 2 % keep == 0:
                    content = content[:8] + b"not an image" * 20  # starts like a PNG: only decoding fails
                copy = tarfile.TarInfo(member.name)
                copy.size = len(content)
                target.addfile(copy, io.BytesIO(content))
    index_shards(IndexOptions("pair", str(folder)))


def test_corrupt_images_are_named_and_counted_over_the_whole_run_including_restarts(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    damaged_pairs(tiny_data, tmp_path / "pairs", keep=3)
    run_dir = tmp_path / "run"
    arguments = ["demo", *tiny_data.overrides(run_dir), "--data.pairs", str(tmp_path / "pairs"), "--num-steps", "500"]

    run_dir.mkdir()
    (run_dir / "stop").touch()  # stops after the first step, however fast the ranks are
    stopped = run_ranks(2, "pretrain.train", arguments)
    assert stopped.exit_codes == [EXIT_STOPPED_BY_FILE] * 2, stopped.stderr
    before, num_steps = read_bad_samples(run_dir), len(read_log(run_dir))
    counted = sum(record["bad_samples"] for record in read_log(run_dir))
    named = [line for output in stopped.stderr for line in output.splitlines() if line.startswith("skipped ")]
    assert counted >= len(named) == len(before) > 0
    assert all(str(tmp_path / "pairs") in line and "image cannot be decoded" in line for line in named)
    assert {line["step"] for line in before} <= set(range(num_steps)) and all(line["key"] for line in before)

    ended = run_ranks(2, "pretrain.train", [*arguments, "--data.max-bad-samples", str(len(before))])
    assert ended.exit_codes == [2, 2]
    after = read_bad_samples(run_dir)
    assert len(before) < len(after) and after[: len(before)] == before
    assert len({line["step"] for line in after[len(before) :]}) == 1  # all of the first step that found one
    report = ended.stderr[0].splitlines()[-1]
    assert f"error: {len(after)} bad samples exceed data.max_bad_samples {len(before)}: " in report
    assert " x image cannot be decoded; most in " in report and f"all are in {run_dir / 'bad_samples.jsonl'}" in report
    assert "exceed" not in ended.stderr[1]


def test_a_rotten_shard_ends_all_ranks_with_one_sentence(tiny_data: TinyData, tmp_path: Path) -> None:
    damaged_pairs(tiny_data, tmp_path / "pairs", keep=1)
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--data.pairs", str(tmp_path / "pairs")]
    ended = run_ranks(2, "pretrain.train", arguments)
    assert ended.exit_codes == [2, 2]
    assert "the data of step 0 cannot be read: a shard without a good sample" in ended.stderr[0]
    assert ended.stderr[1] == ""


def test_a_loader_worker_that_is_killed_ends_all_ranks_and_is_named(tiny_data: TinyData, tmp_path: Path) -> None:
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--num-steps", "100000", "--data.num-workers", "1"]

    def kill_a_worker(processes: list[RankProcess]) -> None:
        wait_for_steps(tmp_path / "run", 3)
        (worker,) = psutil.Process(processes[1].pid).children()
        worker.kill()

    ended = run_ranks(2, "pretrain.train", arguments, while_running=kill_a_worker)
    assert ended.exit_codes == [2, 2]
    sentence = (
        r"the data of step \d+ cannot be read: loader worker 0 died \(killed by SIGKILL\); it had last begun to read"
    )
    assert re.search(sentence, ended.stderr[0]) and str(tiny_data.folder) in ended.stderr[0]
