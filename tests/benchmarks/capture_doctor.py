"""Capture what pretrain.doctor prints on this machine as it is and broken in five ways: written into docs/doctor.md.

    python -m tests.benchmarks.capture_doctor

As root on Linux, for a tmpfs of 16 MB; pip fetches PyPI's apex. Data are drawn; the recipe is laptop.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.texts.sentencepiece_training import train_text_tokenizer
from pretrain.diagnosis.ranks import DEFAULT_PORT
from tests.support.launch import ROOT, python_path
from tests.support.tiny_run import write_tiny_data

PAGE = ROOT / "docs" / "doctor.md"
TMPFS_BYTES = 16_000_000
GREEK = "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc"
"""Letters of another language than the captions'."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data")
        text = PAGE.read_text()
        for case, command, output in captures(folder):
            print(f"$ {command}\n{output}\n")
            text = with_block(text, case, f"$ {command}\n{output}")
        PAGE.write_text(text)


def write_data(folder: Path) -> None:
    """Write tiny shards and tokenizers under the names that the recipe laptop has."""
    folder.mkdir()
    write_tiny_data(folder)
    (folder / "text_tokenizer.spm").rename(folder / "tokenizer.spm")


def captures(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the command and the output of each case, run in a folder with data/."""
    yield "sound", *run(folder, [], {})

    pairs = folder / "data" / "pairs"
    pairs.rename(folder / "pairs")
    yield "no shards", *run(folder, ["--quiet"], {})
    (folder / "pairs").rename(pairs)

    greek = (" ".join(GREEK[number % 7 : number % 7 + 4] for number in range(start, start + 9)) for start in range(500))
    train_text_tokenizer(greek, folder / "data" / "greek.spm", 40, "bpe")
    wrong = ["--data.text-tokenizer", "data/greek.spm", "--model.num-visual-tokens", "8192"]
    yield "wrong tokenizers", *run(folder, ["--quiet"], {}, wrong)

    with small_disk(folder / "small"):
        yield "no space", *run(folder, ["--quiet"], {}, ["--run-dir", "small/runs/laptop"])

    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    install = [*pip, "--target", "packages", "apex==0.9.10.dev0"]
    subprocess.run(install, cwd=folder, check=True)
    yield "PyPI's apex", *run(folder, ["--quiet"], {"PYTHONPATH": python_path(folder / "packages")})
    shutil.rmtree(folder / "packages")

    with socket.create_server(("", DEFAULT_PORT)):
        yield "port taken", *run(folder, ["--quiet"], {})


def run(
    folder: Path, options: list[str], environment: dict[str, str], overrides: list[str] | None = None
) -> tuple[str, str]:
    """Return the doctor's command and what it prints, with its exit code if that is not 0."""
    arguments = [*options, "laptop", *(overrides or [])]
    variables = {**os.environ, "PYTHONPATH": python_path(), **environment}
    command = [sys.executable, "-m", "pretrain.doctor", *arguments]
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    output = ended.stdout + ended.stderr + (f"exit code {ended.returncode}\n" if ended.returncode else "")
    shown = output.replace(str(folder), "/home/me/run").replace(sys.prefix, "/home/me/imglish/.venv")
    return " ".join(["python -m pretrain.doctor", *arguments]), shown.rstrip()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a tmpfs of TMPFS_BYTES."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def with_block(text: str, case: str, block: str) -> str:
    """Return a page with the block after the mark `<!-- CASE -->` replaced."""
    pattern = rf"(<!-- {re.escape(case)} -->\n```text\n).*?(\n```)"
    text, count = re.subn(pattern, lambda found: found[1] + block + found[2], text, flags=re.DOTALL)
    assert count == 1, f"{PAGE} has no block for {case}"
    return text


if __name__ == "__main__":
    main()
