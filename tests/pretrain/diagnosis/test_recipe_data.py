"""A recipe's data opened, tokenizers compared, one batch read. CPU, seconds."""

from dataclasses import replace
from pathlib import Path

from pretrain.config.command_line import parse_recipe
from pretrain.diagnosis.findings import Finding
from pretrain.diagnosis.recipe_data import recipe_data
from pretrain.recipes import CONTRAST_RECIPES, RECIPES, VISUAL_TOKENIZER_RECIPES
from tests.support.mistakes import only_rank
from tests.support.tiny_run import TinyData


def found(tiny_data: TinyData, run_dir: Path, *overrides: object) -> list[Finding]:
    arguments = ["demo", *tiny_data.overrides(run_dir), *map(str, overrides)]
    with only_rank():
        return [*recipe_data(parse_recipe(RECIPES, "pretrain.train", arguments), ranks=2)]


def test_sound_data_is_opened_and_read(tiny_data: TinyData, tmp_path: Path) -> None:
    findings = found(tiny_data, tmp_path / "run")
    assert {one.level for one in findings} <= {"ok", "warning"}, findings
    subjects = [one.subject for one in findings if one.level == "ok"]
    kinds = ["image shards", "pair shards", "text shards"]
    assert subjects == [*kinds, "text tokenizer", "visual tokenizer", "recipe", "held-out data", "first batch"]
    assert findings[-1].text.startswith("6 samples of rank 0 ") and not (tmp_path / "run").exists()


def test_missing_shards_and_wrong_tokenizers_are_all_reported(tiny_data: TinyData, tmp_path: Path) -> None:
    findings = found(
        tiny_data, tmp_path / "run", "--data.pairs", tmp_path / "none", "--model.vocab-size", 64,
        "--model.num-visual-tokens", 512,
    )  # fmt: skip
    errors = {one.subject: one for one in findings if one.level == "error"}
    assert set(errors) == {"pair shards", "text tokenizer", "visual tokenizer"}
    assert str(tmp_path / "none") in errors["pair shards"].text and all(one.remedy for one in errors.values())
    assert "--model.num-visual-tokens 256" in errors["visual tokenizer"].remedy
    assert findings[-1].subject == "first batch" and "not read" in findings[-1].text


def test_any_other_mistake_of_a_start_is_reported_once(tiny_data: TinyData, tmp_path: Path) -> None:
    findings = found(tiny_data, tmp_path / "run", "--gradient-accumulation-steps", 3)
    errors = [one for one in findings if one.level == "error"]
    assert [one.subject for one in errors] == ["recipe"] and "must be a multiple of 2 ranks" in errors[0].text


def test_the_data_of_a_contrastive_recipe_and_the_weights_that_it_starts_from(
    tiny_data: TinyData, two_ranks: Path, tmp_path: Path
) -> None:
    overrides = ["--data.pairs", str(tiny_data.folder / "pairs"), "--run-dir", str(tmp_path / "run")]
    overrides += [
        "--data.text-tokenizer",
        str(tiny_data.folder / "text_tokenizer.spm"),
        "--evaluation.every-steps",
        "0",
    ]
    overrides += ["--model.dim", "48", "--model.ffn-dim", "64", "--pairs-per-step", "8", "--initial-weights"]
    levels = []
    for weights in (two_ranks, tmp_path / "none"):
        arguments = ["contrast_demo", *overrides, str(weights)]
        config = parse_recipe(CONTRAST_RECIPES, "pretrain.contrast", arguments)
        with only_rank():
            levels.append({one.subject: one.level for one in recipe_data(config, ranks=2)})
    sound, missing = levels
    subjects = ["pair shards", "text tokenizer", "initial weights", "recipe", "held-out data", "first batch"]
    assert list(sound) == subjects and "error" not in sound.values()
    assert missing["initial weights"] == "error" and "recipe" not in missing


def test_the_data_of_a_visual_tokenizer(tiny_data: TinyData, tmp_path: Path) -> None:
    overrides = ["--data.images", str(tiny_data.folder / "images"), "--out", str(tmp_path / "out" / "tokenizer.pt")]
    overrides += ["--run-dir", str(tmp_path / "run"), "--evaluation.images", str(tiny_data.folder / "pairs")]
    config = parse_recipe(VISUAL_TOKENIZER_RECIPES, "pretrain.train_visual_tokenizer", ["demo", *overrides])
    missing = replace(config, evaluation=replace(config.evaluation, images=str(tmp_path / "none")))
    with only_rank():
        findings = [*recipe_data(config, ranks=2)]
        errors = [one for one in recipe_data(missing, ranks=2) if one.level == "error"]
    assert [one.subject for one in errors] == ["held-out data"] and str(tmp_path / "none") in errors[0].text
    assert findings[-1].subject == "first batch" and {one.level for one in findings} <= {"ok", "warning"}, findings
    assert [*tmp_path.iterdir()] == []
