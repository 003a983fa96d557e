"""The command pretrain.masked_words."""

import sys

import pytest

from pretrain.masked_words import main


def test_a_run_that_does_not_exist_is_a_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.masked_words", "nowhere", "pairs"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "error: nowhere does not exist; give a run folder or a checkpoint folder\n"
