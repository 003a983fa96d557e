"""What every command does with what its action says. CPU, seconds."""

import sys
from dataclasses import dataclass

import pytest

from data_pipeline.settings.command_line import EXIT_USER_ERROR, run_command


@dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


@pytest.mark.parametrize("fails", [False, True])
def test_names_of_others_cannot_move_the_cursor(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def action(options: NoOptions) -> str:
        message = "photo\x1b[2J\r.jpg caf\udce9\nof 2"
        if fails:
            raise ValueError(message)
        return message

    monkeypatch.setattr(sys, "argv", ["command"])
    if fails:
        with pytest.raises(SystemExit) as ended:
            run_command(NoOptions, "command", action)
        assert ended.value.code == EXIT_USER_ERROR
    else:
        run_command(NoOptions, "command", action)
    printed = capsys.readouterr()
    shown = "photo\\x1b[2J\\r.jpg caf\\xe9\nof 2\n"
    assert (printed.out, printed.err) == (("", f"error: {shown}") if fails else (shown, ""))
