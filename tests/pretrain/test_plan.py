"""The command pretrain.plan."""

import sys

import pytest

from pretrain.plan import main


def test_a_number_of_ranks_that_does_not_divide_is_a_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.plan", "--ranks", "3", "demo"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "must be a multiple of 3 ranks" in capsys.readouterr().err
