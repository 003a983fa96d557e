"""Dry runs: a run's start shown, and nothing changed. CPU, seconds."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretrain.config.command_line import parse_recipe
from pretrain.config.dry_run import DryRunOptions
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.pretraining import evaluation_of_pretraining
from pretrain.evaluation.visual_tokenizer import evaluation_of_visual_tokenizer
from pretrain.jobs.pretraining import Pretraining
from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining
from pretrain.recipes import RECIPES, VISUAL_TOKENIZER_RECIPES
from pretrain.run import dry_run
from tests.support.launch import run_ranks
from tests.support.mistakes import only_rank
from tests.support.shared_folders import contents
from tests.support.tiny_run import TinyData

SECTIONS = ["config", "DeepSpeed", "plan", "data", "first batch", "start"]


def config_of(tiny_data: TinyData, run_dir: Path, *overrides: object) -> PretrainConfig:
    return parse_recipe(RECIPES, "pretrain.train", ["demo", *tiny_data.overrides(run_dir), *map(str, overrides)])


def shown(config: PretrainConfig, capsys: pytest.CaptureFixture[str], num_ranks: int = 2) -> str:
    with only_rank():
        dry_run.show(Pretraining(config, torch.device("cpu")), num_ranks, evaluation_of_pretraining)
    return capsys.readouterr().out


def test_a_run_that_would_start_is_shown_and_its_folder_is_not_made(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(config_of(tiny_data, tmp_path / "run"), capsys)
    titles = [line.strip("= ").partition(",")[0] for line in out.splitlines() if line.startswith("== ")]
    assert titles == SECTIONS and [*tmp_path.iterdir()] == []
    assert '"train_batch_size": 12' in out and '"train_micro_batch_size_per_gpu": 6' in out
    assert "images              (4, 3, 48, 48) torch.uint8" in out and "6 samples of rank 0 of 2" in out
    assert f"at step 0: {tmp_path / 'run'} has no checkpoint; the folder would be made" in out


def test_a_checkpoint_that_would_be_resumed_is_named_and_nothing_changes(
    tiny_data: TinyData, two_ranks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(two_ranks, run_dir)
    before = contents(run_dir)
    out = shown(config_of(tiny_data, run_dir), capsys, num_ranks=4)
    assert f"{run_dir} is complete, {run_dir / 'checkpoints' / 'step_00000008'} has all 8 steps" in out
    assert contents(run_dir) == before


def test_a_resume_that_would_be_refused_is_refused_with_the_same_sentence(
    tiny_data: TinyData, two_ranks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tiny_data, two_ranks, "--num-steps", 9)
    with pytest.raises(ValueError, match=r"was started with different settings \(num_steps was 8, is now 9: under"):
        shown(config, capsys)
    run_dir = tmp_path / "run"
    shutil.copytree(two_ranks, run_dir)
    (weights, *_) = sorted((run_dir / "checkpoints" / "step_00000008").glob("*optim_states.pt"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="every checkpoint of .* is damaged"):
        shown(config_of(tiny_data, run_dir), capsys)


def test_contents_of_a_large_checkpoint_are_left_to_the_start(
    tiny_data: TinyData, two_ranks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "MOST_VERIFIED", 1000)
    config = config_of(tiny_data, two_ranks)
    checkpoint, verified = dry_run.sound_checkpoint(config, two_ranks / "checkpoints" / "step_00000008")
    assert checkpoint.step == 8 and "only the sizes" in verified


def test_ranks_are_those_of_the_option_the_launcher_or_a_node(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_data, tmp_path, "--gradient-accumulation-steps", 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert dry_run.planned_ranks(config, DryRunOptions()) == 2
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert dry_run.planned_ranks(config, DryRunOptions()) == 4
    assert dry_run.planned_ranks(config, DryRunOptions(dry_run_ranks=16)) == 16


def test_a_visual_tokenizers_training_is_shown(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["--data.images", str(tiny_data.folder / "images"), "--out", str(tmp_path / "out" / "tokenizer.pt")]
    overrides += ["--evaluation.images", str(tiny_data.folder / "pairs"), "--evaluation.num-samples", "4"]
    arguments = ["demo", *overrides, "--run-dir", str(tmp_path / "run")]
    config = parse_recipe(VISUAL_TOKENIZER_RECIPES, "pretrain.train_visual_tokenizer", arguments)
    with only_rank():
        dry_run.show(VisualTokenizerTraining(config, torch.device("cpu")), 2, evaluation_of_visual_tokenizer)
    output = capsys.readouterr().out
    assert "predicted for runs that train an encoder" in output and [*tmp_path.iterdir()] == []
    assert "evaluation every 50 steps: loss/total, " in output
    missing = replace(config, evaluation=replace(config.evaluation, images=str(tmp_path / "missing")))
    with only_rank(), pytest.raises(ValueError, match="missing"):
        dry_run.show(VisualTokenizerTraining(missing, torch.device("cpu")), 2, evaluation_of_visual_tokenizer)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.pt").write_bytes(b"another run's")
    with only_rank(), pytest.raises(ValueError, match="is there already, from another run"):
        dry_run.show(VisualTokenizerTraining(config, torch.device("cpu")), 2, evaluation_of_visual_tokenizer)


def test_under_a_launcher_the_main_rank_does_it_alone(tiny_data: TinyData, tmp_path: Path) -> None:
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--dry-run", "--local_rank=0"]
    ended = run_ranks(2, "pretrain.train", arguments)
    assert ended.exit_codes == [0, 0], ended.stderr
    assert "6 samples of rank 0 of 2" in ended.stdout[0] and ended.stdout[1] == "" and ended.stderr[1] == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_ends_it_with_one_sentence(tiny_data: TinyData, tmp_path: Path) -> None:
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--dry-run", "--data.pairs", str(tmp_path / "none")]
    status = tmp_path / "status"
    for environment, code in (({}, 2), ({"IMGLISH_STATUS_FILE": str(status)}, 0)):
        ended = run_ranks(2, "pretrain.train", arguments, environment=environment)
        assert ended.exit_codes == [code, 0] and str(tmp_path / "none") in ended.stderr[0].splitlines()[-1]
    assert status.read_text().split()[1] == "mistake"
