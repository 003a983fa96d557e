"""Imports go one way: pretrain -> model, pretrain -> data_pipeline, and no further."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "model": {"pretrain", "data_pipeline", "deepspeed", "tests"},
    "data_pipeline": {"pretrain", "model", "deepspeed", "tests"},
    "pretrain": {"tests"},
}


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported_packages(path) & FORBIDDEN[package], path


def test_setup_lists_every_package_and_imports_no_torch() -> None:
    assert "torch" not in imported_packages(ROOT / "setup.py")
    setup = (ROOT / "setup.py").read_text()
    for package in FORBIDDEN:
        for init in (ROOT / package).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            assert f'"{name}"' in setup, name
