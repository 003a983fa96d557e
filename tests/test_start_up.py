"""Help of commands is printed without importing torch and DeepSpeed, which takes seconds."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import ROOT, python_path

RECIPES = {"pretrain.train": "demo", "pretrain.train_visual_tokenizer": "demo", "pretrain.plan": "demo"}
"""A recipe for each command whose help explains the fields of a recipe."""
PRINT_IMPORTED = """
import atexit, runpy, sys
atexit.register(lambda: print("imported", *sorted({"torch", "deepspeed"} & set(sys.modules))))
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
IMPORTS_DEEPSPEED = re.compile(r"^(?:import|from) deepspeed\b", re.MULTILINE)


def command_lines() -> list[list[str]]:
    """Return command lines for the help of every command, and for help on the fields of a recipe."""
    files = [path for package in ("data_pipeline", "pretrain") for path in sorted((ROOT / package).glob("*.py"))]
    modules = [f"{path.parent.name}.{path.stem}" for path in files if "def main(" in path.read_text()]
    return [[module] for module in modules] + [[module, recipe] for module, recipe in RECIPES.items()]


def test_every_command_is_among_them() -> None:
    assert len(command_lines()) >= 12 + len(RECIPES) and ["pretrain.train"] in command_lines()


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_help_imports_neither_torch_nor_deepspeed(words: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PRINT_IMPORTED, *words, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    *help, imported = ended.stdout.splitlines()
    assert ended.returncode == 0 and len(help) > 3, ended.stderr
    assert imported == "imported"


def packages_that_import_deepspeed() -> set[Path]:
    """Return the folders of modules that import DeepSpeed at import time."""
    return {path.parent for path in (ROOT / "pretrain").rglob("*.py") if IMPORTS_DEEPSPEED.search(path.read_text())}


def test_deepspeed_is_imported_only_after_its_accelerator_is_chosen() -> None:
    """Check that these packages first import pretrain.engine, whose __init__.py chooses the accelerator."""
    folders = packages_that_import_deepspeed() - {ROOT / "pretrain" / "engine"}
    assert folders
    for folder in folders:
        statements = ast.parse((folder / "__init__.py").read_text()).body
        names = [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
        assert names[:1] == ["pretrain.engine"], folder
