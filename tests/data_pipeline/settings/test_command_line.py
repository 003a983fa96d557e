"""Messages and imports of every command. CPU, seconds."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from data_pipeline.settings.command_line import EXIT_USER_ERROR, run_command
from tests.support.launch import ROOT


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


COMMANDS = sorted(path.stem for path in (ROOT / "data_pipeline").glob("*.py") if path.stem != "__init__")
SLOW_IMPORTS = ("torch", "deepspeed", "pyarrow", "sentencepiece", "aiohttp", "fsspec", "tqdm")
HELP = """
import runpy, sys
sys.argv = ["command", "--help"]
runpy.run_module("data_pipeline.{command}", run_name="__main__")
print("imported:", *[name for name in {slow!r} if name in sys.modules])
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_without_slow_imports(command: str) -> None:
    program = HELP.format(command=command, slow=SLOW_IMPORTS)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert f"usage: python -m data_pipeline.{command}" in run.stdout
    assert run.stdout.splitlines()[-1].strip() == "imported:"


def test_there_are_commands() -> None:
    assert set(COMMANDS) >= {"write_shards", "index_shards", "check_shards", "train_text_tokenizer"}
