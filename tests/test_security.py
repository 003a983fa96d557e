"""docs/security.md names a test for each promise, and each test exists."""

import ast
import re

from tests.support.launch import ROOT

PAGE = ROOT / "docs" / "security.md"


def test_every_promise_names_a_test_and_every_test_exists() -> None:
    missing, num_promises = [], 0
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cells[-1])
        if len(cells) == 2 and line.startswith("|") and cells[-1].startswith(("`tests", "tests")):
            num_promises += 1
            assert named, f"no test shows this promise: {cells[0]}"
        for path, name in named:
            source = ROOT / path
            functions = ast.parse(source.read_text()).body if source.is_file() else []
            if name not in {node.name for node in functions if isinstance(node, ast.FunctionDef)}:
                missing.append(f"{path}::{name}")
    assert num_promises > 20
    assert not missing, missing


def test_a_page_of_promises_has_a_test_in_each_row() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "::" not in line]
    headers = {"| promise | test |", "| --- | --- |"}
    first_table = PAGE.read_text().partition("\n## ")[0]
    assert [row for row in rows if row not in headers and row not in first_table] == []
