"""Configs from files: every format, and every mistake in one sentence. CPU, a second."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.config.command_line import parse_recipe
from pretrain.config.config_file import read_config_file
from pretrain.config.contrast import ContrastConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import RunConfig, config_to_json
from pretrain.config.visual_tokenizer import VisualTokenizerRun
from pretrain.recipes import CONTRAST_RECIPES, RECIPES, VISUAL_TOKENIZER_RECIPES
from tests.support.mistakes import option_mistake

SAVED: dict[str, Any] = json.loads(config_to_json(RECIPES["demo"]()))


def as_toml(values: dict[str, Any], prefix: str = "") -> str:
    """Return values as TOML, which has no null."""
    lines = [f"{name} = {json.dumps(v)}" for name, v in values.items() if v is not None and not isinstance(v, dict)]
    tables = {name: table for name, table in values.items() if isinstance(table, dict)}
    return "\n".join([*lines, *(f"[{prefix}{n}]\n{as_toml(t, f'{prefix}{n}.')}" for n, t in tables.items())])


WRITERS = {".json": json.dumps, ".yaml": yaml.safe_dump, ".yml": json.dumps, ".toml": as_toml}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (RECIPES["beit3_giant"](), PretrainConfig),
        (CONTRAST_RECIPES["contrast_base"](), ContrastConfig),
        (VISUAL_TOKENIZER_RECIPES["vqkd_base"](), VisualTokenizerRun),
    ],
    ids=["pretraining", "contrast", "visual tokenizer"],
)
def test_every_format_gives_the_config_that_was_written(
    config: RunConfig, kind: type[RunConfig], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"config{suffix}"
    path.write_text(WRITERS[suffix](json.loads(config_to_json(config))))
    assert read_config_file(path, kind) == config.resolved()
    # of a command that takes several kinds, such as pretrain.plan and pretrain.doctor
    assert read_config_file(path, PretrainConfig, ContrastConfig, VisualTokenizerRun) == config.resolved()


def test_overrides_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config_to_json(RECIPES["laptop"]()))
    for named in (["--config", str(path)], [f"--config={path}"]):
        config = parse_recipe(RECIPES, "pretrain.train", [*named, "--num-steps", "7", "--optimizer.peak-lr", "0.5"])
        assert (config.num_steps, config.optimizer.peak_lr) == (7, 0.5)
        assert config.model == RECIPES["laptop"]().model


def test_numbers_of_yaml_may_have_an_exponent_without_a_point(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SAVED).replace("peak_lr: 0.001", "peak_lr: 1e-3"))
    assert "1e-3" in path.read_text()
    assert read_config_file(path, PretrainConfig) == RECIPES["demo"]().resolved()


@pytest.mark.parametrize(
    ("suffix", "content", "sentence"),
    [
        (".json", {"num_stpes": 4}, "config.json: there is no field num_stpes; did you mean num_steps?"),
        (".yaml", {"data": {"txts": 1}}, "config.yaml: there is no field data.txts; did you mean texts?"),
        (".json", {"objective": {"x": 1}}, "config.json: there is no field objective.x; objective has image_mask_"),
        (".json", {"num_steps": "4"}, 'config.json: num_steps "4" must be an integer from 1 to 1,000,000,000'),
        (".toml", {"num_steps": 0}, "config.toml: num_steps 0 must be an integer from 1 to 1,000,000,000"),
        (".json", {"optimizer": {"beta1": True}}, "config.json: optimizer.beta1 true must be a number in [0, 1)"),
        (".json", {"optimizer": 3}, "config.json: optimizer 3 must hold names and values"),
        (".json", {"precision": "fp8"}, 'config.json: precision "fp8" must be one of float32, bfloat16'),
        (".json", {"deterministic": "yes"}, 'config.json: deterministic "yes" must be true or false'),
        (".json", {"run_dir": ""}, 'config.json: run_dir "" must be a path'),
        (".json", {"visual_tokenizer": None}, "config.json: visual_tokenizer null must be given"),
        (".json", {"data": {"images": "x"}}, 'config.json: data.images "x" must be a list of texts'),
        (".json", {"data": {"images": [1]}}, "config.json: data.images [...] must be a list of texts"),
        (".json", {"model": {"num_heads": 5}}, "config.json: num_heads 5 must divide dim 192; choose another num"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_field_is_one_sentence(
    suffix: str, content: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = {**SAVED}
    for name, value in content.items():
        merged[name] = {**SAVED[name], **value} if isinstance(value, dict) else value
    path = tmp_path / f"config{suffix}"
    path.write_text(WRITERS[suffix](merged))
    line = option_mistake(RECIPES, ["--config", path], capsys)
    assert line.startswith(f"error: {tmp_path}/{sentence}")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.json", "{", "c.json is not valid JSON: "),
        ("c.json", '{"seed": NaN}', "c.json is not valid JSON: NaN is not a number"),
        ("c.json", '{"seed": 1, "seed": 2}', "c.json is not valid JSON: it sets 'seed' twice; remove one"),
        ("c.yaml", "seed: 1\nseed: 2\n", "c.yaml is not valid YAML: it sets 'seed' twice; remove one"),
        ("c.yaml", "a: [1\n", "c.yaml is not valid YAML: while parsing a flow sequence"),
        ("c.yaml", "!!python/object/apply:os.getcwd []", "c.yaml is not valid YAML: could not determine a constructor"),
        ("c.yaml", "? [1, 2]\n: 3\n", "c.yaml is not valid YAML: "),
        ("c.yaml", "- 1\n", "c.yaml must hold names and values, as the config.json of a run does"),
        ("c.toml", "a = 1\na = 2", "c.toml is not valid TOML: "),
        ("c.ini", "", "c.ini is a config in no known format; give a file that ends in .json, .toml, .yaml, .yml"),
        ("c.json", "{}", "c.json: data must be given"),
    ],
)
def test_a_file_that_holds_no_config_is_named(
    name: str, text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert option_mistake(RECIPES, ["--config", tmp_path / name], capsys).startswith(f"error: {tmp_path}/{sentence}")


def test_a_command_line_without_the_file_or_without_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    needed = "error: --config needs a file, such as the config.json of a run"
    assert option_mistake(RECIPES, ["--config"], capsys) == needed
    assert option_mistake(RECIPES, ["--config", path], capsys).startswith(f"error: {path} cannot be read (No such file")
    path.write_text("seed: 1")
    assert f"; did you mean --config {path}?" in option_mistake(RECIPES, [path], capsys)
    assert "did you mean --config?" in option_mistake(RECIPES, ["--confgi", path], capsys)
    monkeypatch.setitem(sys.modules, "yaml", None)  # as if it was not installed
    assert "needs PyYAML: pip install pyyaml, or write" in option_mistake(RECIPES, ["--config", path], capsys)
