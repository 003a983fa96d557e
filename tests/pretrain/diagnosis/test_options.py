"""Options of the doctor, with and without a recipe. No time at all."""

import sys

import pytest

from pretrain.config.command_line import parse_options_and_recipe_if_any
from pretrain.diagnosis.options import DoctorOptions
from pretrain.recipes import RECIPES


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[str, object, DoctorOptions]:
    monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
    return parse_options_and_recipe_if_any(RECIPES, DoctorOptions, "pretrain.doctor")


def test_the_recipe_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, "--json") == ("", None, DoctorOptions(json=True))
    name, config, options = parsed(monkeypatch, "--ranks", "4", "laptop", "--num-steps", "7", "--quiet")
    assert (name, config.num_steps, options) == ("laptop", 7, DoctorOptions(ranks=4, quiet=True))  # type: ignore[attr-defined]


@pytest.mark.parametrize("mistake", [["laptpo"], ["--jsn"], ["--ranks", "0"], ["laptop", "--num-stepss", "9"]])
def test_a_mistake_ends_with_one_sentence(
    mistake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, *mistake)
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
