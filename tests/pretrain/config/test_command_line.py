"""Parsing of RECIPE [overrides], with the command's own options anywhere among them."""

import contextlib
import sys
from dataclasses import dataclass

import pytest

from pretrain.config.command_line import run_command_on_ranks, run_recipe_command
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.options import EvaluateOptions
from pretrain.recipes import RECIPES
from pretrain.survival.agreement import FatalRunError


@dataclass(frozen=True)
class Options:
    """Options of a command."""

    ranks: int = 1


def shown(config: PretrainConfig, options: Options) -> str:
    if config.num_steps == 13:
        raise ValueError("13 brings bad luck")
    return f"{config.run_dir.name} {config.num_steps} {options.ranks}"


def ended(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], default: str | None = None
) -> tuple[object, str, str]:
    """Return exit code, standard output and standard error of the command."""
    monkeypatch.setattr(sys, "argv", ["show", *words])
    code: object = 0
    try:
        run_recipe_command(RECIPES, Options, "tests.show", shown, default)
    except SystemExit as ending:
        code = ending.code
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize(
    ("words", "default", "printed"),
    [
        (["demo", "--num-steps", "5", "--ranks", "2"], None, "demo 5 2\n"),
        (["--ranks", "2", "demo", "--num-steps", "5"], None, "demo 5 2\n"),
        (["--num-steps", "5"], "laptop", "laptop 5 1\n"),
    ],
)
def test_a_recipe_its_overrides_and_the_commands_own_options_are_parsed(
    words: list[str], default: str | None, printed: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert ended(words, monkeypatch, capsys, default) == (0, printed, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dmeo"], "error: there is no recipe 'dmeo'; did you mean demo?; choose one of: demo, "),
        (["--rank", "2", "demo"], "error: there is no option --rank before the recipe; did you mean --ranks?"),
        (["demo", "--num-steps", "0"], "error: --num-steps 0 must be an integer from 1 to 1,000,000,000"),
        (["demo", "--num-steps", "13"], "error: 13 brings bad luck\n"),
    ],
)
def test_a_mistake_ends_with_2_and_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, error = ended(words, monkeypatch, capsys)
    assert (code, output) == (2, "") and error.startswith(sentence) and error.count("\n") == 1, error


def test_help_explains_the_form_and_the_commands_own_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = ended(["--help"], monkeypatch, capsys)
    assert code == 0 and "usage: tests.show [options] RECIPE [overrides]" in output and "--ranks" in output


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_ranks_the_main_one_prints(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(options: EvaluateOptions) -> str:
        if options.num_words == 1:
            raise FatalRunError("what all ranks raise")
        if options.num_words == 2:
            raise ValueError("what this rank alone raises")
        return f"evaluated {options.source}"

    def run(*words: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["evaluate", f"--local_rank={rank}", *words])
        with contextlib.suppress(SystemExit):
            run_command_on_ranks(EvaluateOptions, "pretrain.evaluate", act)
        captured = capsys.readouterr()
        return captured.out, captured.err

    monkeypatch.setenv("RANK", rank)
    is_main = rank == "0"
    assert run("runs/a") == ("evaluated runs/a\n" * is_main, "")
    assert run("runs/a", "--num-words", "1") == ("", "error: what all ranks raise\n" * is_main)
    assert ("there is no option --num-word" in run("runs/a", "--num-word", "2")[1]) == is_main
    if is_main:
        assert run("runs/a", "--num-words", "2") == ("", "error: what this rank alone raises\n")
    else:
        with pytest.raises(ValueError, match="what this rank alone raises"):
            run("runs/a", "--num-words", "2")
