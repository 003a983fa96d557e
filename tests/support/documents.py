"""Documents of the project and their contents: commands, code, links."""

import re
import shlex
from pathlib import Path

from tests.support.launch import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "*/README.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md" and not path.parent.name.startswith(".")
)
STARTERS = ("python", "deepspeed", "sbatch", "make")
"""First words of commands in running text."""


def names_of(paths: list[Path]) -> list[str]:
    """Return paths relative to the checkout."""
    return [str(path.relative_to(ROOT)) for path in paths]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def inline_code(text: str) -> list[str]:
    """Return the text between backticks in paragraphs and tables, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without_blocks(text))]


def commands(text: str) -> list[str]:
    """Return the lines of bash blocks without comments, and the commands in running text."""
    lines = [
        shlex.join(words)
        for block in blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]
    return lines + [code for code in inline_code(text) if code.split()[0] in STARTERS and " " in code]
