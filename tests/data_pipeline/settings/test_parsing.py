"""A command line gives options, or one sentence that suggests the intended option."""

from pathlib import Path
from typing import Any

import pytest

from data_pipeline.settings.parsing import HelpRequest, UsageError, parse_options, sound_path
from data_pipeline.settings.suggestions import did_you_mean
from data_pipeline.write_shards import ShardOptions
from pretrain.config.command_line import parse_recipe_and_options
from pretrain.conversion.options import ConvertOptions
from pretrain.inference.options import EncodeOptions
from pretrain.planning.options import PlanOptions
from pretrain.recipes import RECIPES


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [
        (ConvertOptions, [], "SOURCE and OUT must be given"),
        (ConvertOptions, ["run", "out", "more"], "more is one argument too many"),
        (ConvertOptions, ["run", "out", "--role"], "--role needs a value"),
        (
            ConvertOptions,
            ["run", "out", "--to", "pytorch"],
            "--to pytorch must be one of beit3, safetensors, timm, transformers; command",
        ),
        (ConvertOptions, ["run", "out", "--rolle", "dual"], "there is no option --rolle; did you mean --role?"),
        (ConvertOptions, ["run", "out", "--nonsense"], "there is no option --nonsense; command --help"),
        (ConvertOptions, ["", "out"], "SOURCE '' must be a path"),
        (ConvertOptions, ["run", "out", "--num-heads", "9" * 5000], f"--num-heads {'9' * 57}... must be an integer"),
        (
            ShardOptions,
            ["pairs", "a", "b"],
            "kind pairs must be one of caption, image, label, nlvr2, pair, text, vqa; command",
        ),
        (ShardOptions, ["pair", "a", "b", "--qualty", "3"], "there is no option --qualty; did you mean --quality?"),
        (ShardOptions, ["text", "a", "b"], "kind text needs --text-tokenizer"),
        (ShardOptions, ["pair", "a", "b", "--classes", "c"], "classes is for kind label, not for pair"),
        (ShardOptions, ["label", "a", "b", "--min-answer-count", "1"], "min_answer_count is for kind vqa"),
        (ShardOptions, ["vqa", "scenes:9", "b", "--answers", "c"], "answers is for files"),
        (ShardOptions, ["vqa", "a.jsonl", "b", "--annotations", "c"], "annotations are those of VQAv2's .json"),
        (ShardOptions, ["vqa", "a", "b", "--answers", "c", "--min-answer-count", "2"], "leave one of them out"),
        (ShardOptions, ["pair", "a", "b", "--part", "3"], "part 3 must be below num_parts 1"),
    ],
)
def test_a_mistake_is_one_sentence_in_the_words_of_the_command_line(
    kind: Any, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parse_options(kind, arguments, "command")
    message = str(refused.value)
    assert sentence in message and message.endswith("; command --help lists every option") and "\n" not in message


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("--num-stepss", "--num-steps"),
        ("--numsteps", "--num-steps"),
        ("--optimizer.peaklr", "--optimizer.peak-lr"),
        ("--peak-lr", "--optimizer.peak-lr"),
        ("--lanes", None),
        ("--model.imagesize", "--model.image-size"),
        ("--image-size", "--model.image-size"),
    ],
)
def test_an_option_of_a_recipe_that_was_meant(mistyped: str, meant: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        parse_options(type(RECIPES["demo"]()), [mistyped, "3"], "command", RECIPES["demo"]())
    assert (f"there is no option {mistyped}; did you mean {meant}?" in str(refused.value)) == (meant is not None)


def test_a_long_message_is_not_broken_into_words(tmp_path: Path) -> None:
    long = "x" * 300 + ",y" * 50
    with pytest.raises(UsageError, match=f"{long} is one argument too many"):
        parse_options(ConvertOptions, ["run", "out", long], "command")


def test_a_required_option_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="^--out must be given"):
        parse_options(EncodeOptions, ["run", "--images", "folder"], "command")


def test_help_is_asked_for_and_given() -> None:
    with pytest.raises(HelpRequest, match="--num-parts INT from 1 to 1,000,000,000"):
        parse_options(ShardOptions, ["--help"], "command")


def test_a_path_is_neither_empty_nor_holds_a_nul() -> None:
    assert sound_path("a b") == Path("a b")
    for text in ("", "a\0b"):
        with pytest.raises(ValueError, match="must be a path"):
            sound_path(text)


def test_a_name_that_is_like_none_is_not_guessed() -> None:
    assert did_you_mean("dmeo", ["demo", "laptop"]) == "; did you mean demo?"
    assert did_you_mean("xyz", ["demo", "laptop"]) == ""


def ended(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Any, str]:
    monkeypatch.setattr("sys.argv", ["plan", *arguments])
    with pytest.raises(SystemExit) as ending:
        parse_recipe_and_options(RECIPES, PlanOptions, "pretrain.plan")
    output = capsys.readouterr()
    return ending.value.code, output.out + output.err


def test_options_of_a_module_stand_before_or_after_the_recipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["--ranks", "8", "demo", "--seed", "3"], ["demo", "--seed", "3", "--ranks", "8"]):
        monkeypatch.setattr("sys.argv", ["plan", *arguments])
        config, options = parse_recipe_and_options(RECIPES, PlanOptions, "pretrain.plan")
        assert (config.seed, options.ranks) == (3, 8)
    assert ended(capsys, monkeypatch, "--rank", "8", "demo")[1].startswith(
        "error: there is no option --rank before the recipe; did you mean --ranks?"
    )
    assert ended(capsys, monkeypatch, "laptp") == (2, ended(capsys, monkeypatch, "laptp")[1])
    assert "did you mean laptop?" in ended(capsys, monkeypatch, "laptp")[1]
    code, text = ended(capsys, monkeypatch, "--help")
    assert code == 0 and "beit3_giant" in text and "--gpu-gb None or FLOAT from 0.1 to 10,000" in text
    code, text = ended(capsys, monkeypatch, "demo", "--help")
    assert code == 0 and "--optimizer.peak-lr FLOAT from 0 to 1,000" in text
    assert ended(capsys, monkeypatch)[0] == 2
