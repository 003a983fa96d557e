"""Show what a run looks like on a terminal: python -m tests.benchmarks.capture_terminal

Runs the recipe `demo`, shortened, in tmux at 80 and at 160 columns, and writes the screen at its start, in its middle
and at its end into docs/watching.md, after the comments that name them. Needs tmux; takes a few minutes per width.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.launch import ROOT, python_path
from tests.support.tiny_run import write_tiny_data

PAGE = ROOT / "docs" / "watching.md"
NUM_STEPS = 120
COMMAND = f"python -m pretrain.train demo --num-steps {NUM_STEPS} --save-every-steps 40"
COLUMNS = (80, 160)
NUM_LINES = 40
MOMENTS = {"start": 10, "middle": 70, "end": NUM_STEPS}
"""Steps after which the screen is captured."""
TIMEOUT_SECONDS = 1800.0
SOCKET = f"imglish-{os.getpid()}"


def tmux(*words: str) -> str:
    return subprocess.run(["tmux", "-L", SOCKET, *words], check=True, capture_output=True, text=True).stdout


def capture(folder: Path, columns: int) -> dict[str, str]:
    """Return the screen of a run in a folder at each moment."""
    shutil.rmtree(folder / "runs" / "demo" / "checkpoints", ignore_errors=True)
    for name in ("log.jsonl", "environment.json", "startup.log"):
        (folder / "runs" / "demo" / name).unlink(missing_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": python_path(), "PS1": "$ ", "OMP_NUM_THREADS": "1"}
    shell = ["env", *(f"{name}={value}" for name, value in environment.items()), "bash", "--norc", "--noprofile"]
    session = ["-s", "run", "-x", str(columns), "-y", str(NUM_LINES), "-c", str(folder)]
    tmux("new-session", "-d", *session, *shell)
    try:
        tmux("send-keys", "-t", "run", f"clear; {COMMAND}; echo exit code $?", "Enter")
        found = {}
        for moment, step in MOMENTS.items():
            shown = wait_for(rf"exit code \d|step (\d+)/{NUM_STEPS}", step)
            found[moment] = shown
        return found
    finally:
        tmux("kill-session", "-t", "run")


def wait_for(pattern: str, step: int) -> str:
    """Return the screen once it shows a step or a later one, at the last step once the command has ended."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        shown = tmux("capture-pane", "-p", "-t", "run")
        has_ended = re.search(r"^exit code \d+$", shown, re.MULTILINE) is not None
        steps = [int(number) for number in re.findall(rf"step (\d+)/{NUM_STEPS}", shown)]
        if has_ended or (step < NUM_STEPS and max(steps, default=0) >= step):
            return without_margins(shown)
        time.sleep(0.1)
    raise TimeoutError(f"step {step} does not come:\n{shown}")


def without_margins(screen: str) -> str:
    """Return a screen without empty lines at its end and without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in screen.rstrip().splitlines())


def insert(page: str, name: str, screen: str) -> str:
    """Return the page with a screen in the block after the comment that names it. Raises ValueError if it is absent."""
    replaced, count = re.subn(
        rf"(<!-- {re.escape(name)} -->\n```text\n).*?(^```$)",
        lambda match: f"{match[1]}{screen}\n{match[2]}",
        page,
        flags=re.DOTALL | re.MULTILINE,
    )
    if count != 1:
        raise ValueError(f"{PAGE} has {count} blocks named {name}; it must have one")
    return replaced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the screens; without it docs/watching.md is rewritten")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "runs" / "demo" / "data"
        data.mkdir(parents=True)
        write_tiny_data(data)
        tmux("new-session", "-d", "-s", "other")  # keeps the server between two captures
        for columns in COLUMNS:
            for moment, screen in capture(Path(name), columns).items():
                print(f"== {columns} columns, {moment}\n{screen}\n", flush=True)
                if out is None:
                    PAGE.write_text(insert(PAGE.read_text(), f"{columns} columns, {moment}", screen))
                else:
                    (out / f"{columns}_{moment}.txt").write_text(screen + "\n")
        tmux("kill-server")


if __name__ == "__main__":
    main()
