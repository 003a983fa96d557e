"""Docstrings, comments, messages and pages are in the English of the field, without private grammar."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launch import ROOT

PRIVATE = {
    "an opener 'Of ...'": r"(?:^|\"\"\"|[.:;] )Of (?:so|the|all|each|every|what|which|those|some|this|one|a)\b",
    "'Raises X where'": r"\b[Rr]aises? [^.\n]{0,60}\bwhere\b",
    "'so many' as a number": r"\b[Ss]o many (?!that\b)\w+",
    "'begun otherwise'": r"\bbegun otherwise\b",
    "'is passed over'": r"\b(?:is|are|was|were|be) passed over\b",
    "'is no JSON'": r"(?<!there )\b(?:is|are|was|were) no (?:valid |sound )?"
    r"(?:JSON|config|checkpoint|folder|file|list|number|object|text|image|port|path|option|recipe|card|teacher|tensor)\b",
    "'the same command continues'": r"\bsame command continues\b",
}
"""Regular expressions by the phrase that they find."""
OWN = Path(__file__)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each string and each comment of a Python file, each line of a page, with its line number."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def files() -> list[Path]:
    found = [
        path for package in ("model", "data_pipeline", "pretrain", "tests") for path in (ROOT / package).rglob("*")
    ]
    found += [*(ROOT / "docs").glob("*.md"), *(ROOT / "slurm").iterdir(), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return sorted(path for path in found if path.suffix in (".py", ".md", ".sh", ".sbatch") and path != OWN)


def test_no_text_uses_private_grammar() -> None:
    patterns = {name: re.compile(pattern, re.MULTILINE) for name, pattern in PRIVATE.items()}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]} ({name})"
        for path in files()
        for line, text in prose(path)
        for name, pattern in patterns.items()
        for match in pattern.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "Of the files that define a run",
        "Raises ValueError where the file is empty.",
        "run on so many ranks",
        "the run was begun otherwise",
        "a damaged file is passed over",
        "config.json is no JSON",
        "saved; the same command continues",
    ],
)
def test_each_pattern_finds_its_phrase(text: str) -> None:
    assert sum(bool(re.search(pattern, text)) for pattern in PRIVATE.values()) == 1
