"""Held-out losses against the sums of a training forward; samples that cannot be read; mistakes. CPU, seconds."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from model.objective import OBJECTIVES
from pretrain.config.command_line import parse_recipe
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.held_out_losses import HeldOutLosses
from pretrain.evaluation.pretraining import PretrainingEvaluation
from pretrain.jobs.micro_step import make_micro_step
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.recipes import RECIPES
from tests.support.evaluated import evaluation_overrides
from tests.support.tiny_run import TinyData

CPU = torch.device("cpu")


def config_of(data: TinyData, *extra: object) -> PretrainConfig:
    words = ["demo", *data.overrides(data.folder / "never"), *evaluation_overrides(data), *extra]
    return parse_recipe(RECIPES, "pretrain.train", [*map(str, words)])


def evaluation_of(config: PretrainConfig) -> PretrainingEvaluation:
    assert config.data.text_tokenizer is not None
    tokenizers = load_visual_tokenizer(config.visual_tokenizer), TextTokenizer(config.data.text_tokenizer)
    return PretrainingEvaluation(config, *tokenizers, CPU)


def model_of(config: PretrainConfig) -> MaskedDataModel:
    model = MaskedDataModel(config.model)
    init_weights(model, config.model, 0)
    return model.eval()


def test_losses_are_those_of_a_training_forward_on_all_samples(tiny_data: TinyData) -> None:
    config = config_of(tiny_data, "--evaluation.parts", "losses")
    (losses,) = evaluation_of(config).parts
    assert isinstance(losses, HeldOutLosses)
    model, found = model_of(config), losses.figures(model_of(config), Ranks())
    batch, weights = losses.batch(range(10))
    assert batch.image_sample_ids.tolist() == [*range(10), *range(10)] and weights.sum() == 30
    micro = make_micro_step(config, batch, losses.visual_tokenizer, losses.text_tokenizer)
    with torch.no_grad():
        means = model(micro.inputs, micro.targets) / micro.targets.counts()
    expected = dict(zip([f"loss/{name}" for name in OBJECTIVES], means.tolist(), strict=True))
    expected["loss/total"] = float(means @ torch.tensor(config.objective.weights))
    accuracy = found.pop("patches/acc")
    assert found == pytest.approx(expected, abs=1e-5)  # chunks of four, four and two
    assert accuracy * 10 * config.num_masked_patches == pytest.approx(round(accuracy * 10 * config.num_masked_patches))


def test_a_sample_that_cannot_be_read_weighs_nothing_and_moves_no_other(
    tiny_data: TinyData, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = shutil.copytree(tiny_data.folder / "pairs", tmp_path / "pairs")
    config = config_of(tiny_data, "--evaluation.pairs", pairs, "--evaluation.parts", "losses", "words")
    whole = evaluation_of(config)
    losses, _ = whole.parts
    assert isinstance(losses, HeldOutLosses)
    before, weights_before = losses.batch(range(4))
    model = model_of(config)
    expected = whole.figures(model, Ranks())  # reads all samples
    reader = losses.held_out["pair"].reader
    shard, record = Path(pairs) / reader.index.shards[0].name, reader.index.records[2]
    with shard.open("r+b") as file:
        file.seek(int(record["image"]["offset"]))
        file.write(b"\0" * 8)
    damaged = evaluation_of(config)
    losses_then, _ = damaged.parts
    assert isinstance(losses_then, HeldOutLosses)
    after, weights = losses_then.batch(range(4))
    assert "skipped" in capfd.readouterr().err
    assert weights.tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1] and weights_before.sum() == 12
    assert torch.equal(before.images[[4, 5, 7]], after.images[[4, 5, 7]])
    found = damaged.figures(model, Ranks())
    assert found["loss/mim"] == expected["loss/mim"] and found["loss/mlm"] == expected["loss/mlm"]
    assert found["loss/mvlm_text"] != expected["loss/mvlm_text"]
    assert abs(found["loss/mvlm_text"] - expected["loss/mvlm_text"]) < 0.5


def test_kinds_without_data_are_left_out_and_a_figure_that_is_not_there_cannot_be_the_best(tiny_data: TinyData) -> None:
    config = config_of(tiny_data, "--evaluation.images", "None", "--evaluation.pairs", "None")
    assert evaluation_of(config).names == ("loss/mlm",)
    best = replace(config, evaluation=replace(config.evaluation, best="loss/mim"), save_every_steps=1)
    with pytest.raises(
        ValueError, match="evaluation.best loss/mim is not a figure of this run; choose one of: loss/mlm"
    ):
        evaluation_of(best)
    with pytest.raises(ValueError, match=r"none of evaluation.parts \(.*\) can be computed by this network"):
        evaluation_of(replace(config, evaluation=replace(config.evaluation, parts=("probe",))))


@pytest.mark.parametrize(
    ("setting", "folder", "said"),
    [
        (
            "pairs",
            "missing",
            "evaluation.pairs: shard folder .*missing does not exist; write it with .* --evaluation.every-",
        ),
        (
            "pairs",
            "images",
            "evaluation.pairs .*images holds shards of kind 'image', not 'pair'; give the right folder",
        ),
        ("images", "texts", "evaluation.images .*texts holds shards of kind 'text', not 'image' or 'pair'"),
        ("labelled", "missing", "evaluation.labelled .*missing does not exist"),
    ],
)
def test_missing_and_wrong_folders_are_found_when_it_is_opened(
    setting: str, folder: str, said: str, tiny_data: TinyData
) -> None:
    config = config_of(tiny_data, f"--evaluation.{setting}", tiny_data.folder / folder)
    with pytest.raises(ValueError, match=said):
        evaluation_of(config)


def test_a_folder_whose_first_samples_cannot_be_read_is_refused(tiny_data: TinyData, tmp_path: Path) -> None:
    pairs = shutil.copytree(tiny_data.folder / "pairs", tmp_path / "pairs")
    for shard in pairs.glob("*.tar"):
        shard.write_bytes(b"\0" * shard.stat().st_size)
    config = config_of(tiny_data, "--evaluation.pairs", pairs)
    with pytest.raises(ValueError, match="evaluation.pairs .*: none of its first 4 samples can be read"):
        evaluation_of(config)
