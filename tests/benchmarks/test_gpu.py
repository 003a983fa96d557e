"""The parts of gpu.sh: complete, within their time, and independent of each other. Any machine, seconds."""

import ast
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.benchmarks import gpu
from tests.benchmarks.gpu import FIRST, MACHINE, PARTS, Command, Part, Results, run_part
from tests.support.launch import ROOT, python_path

PRINTING = "print('a row'); print('another row')"
FAILING = "print('a row'); raise SystemExit(3)"
HANGING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(f"child {child.pid}", flush=True)
time.sleep(60)
"""


def test_every_file_with_tests_for_a_gpu_is_in_a_part() -> None:
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.gpu" in path.read_text() and path != Path(__file__)
    }
    assert marked == {*gpu.GPU_TESTS, *gpu.RUN_TESTS}
    kernels = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/model/kernels").glob("test_*.py")}
    assert kernels == set(gpu.KERNEL_TESTS) and set(gpu.FEW_KERNEL_TESTS) < kernels


def test_the_first_parts_take_at_most_ten_minutes_and_each_two() -> None:
    assert MACHINE.seconds + sum(PARTS[name].seconds for name in FIRST) <= 600
    assert all(PARTS[name].seconds <= 120 for name in FIRST)


def test_a_list_of_the_parts_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == ["first", *PARTS]


@pytest.mark.parametrize("name", ["gpu.py", "machine.py", "packages.py"])
def test_nothing_but_the_standard_library_is_needed_to_start(name: str) -> None:
    modules: set[str | None] = set()
    for node in ast.parse((ROOT / "tests" / "benchmarks" / name).read_text()).body:
        modules |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        modules |= {node.module} if isinstance(node, ast.ImportFrom) else set()
    modules -= {"tests.benchmarks.packages"}  # likewise
    assert {str(module).split(".")[0] for module in modules} <= sys.stdlib_module_names


def test_a_part_that_fails_or_hangs_leaves_its_rows_and_lets_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, program in {"printing": PRINTING, "failing": FAILING, "hanging": HANGING}.items():
        (tmp_path / f"{name}_program.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path))
    names = ("failing_program", "hanging_program", "no_such_program", "printing_program")
    part = Part("Does it go on?", tuple(Command((name,), 3 if name.startswith("h") else 60) for name in names))
    file = tmp_path / "out" / "rows.txt"
    began = time.monotonic()
    assert not run_part("part", part, False, Results(file))
    assert time.monotonic() - began < 50  # neither the 60 seconds of the program nor those of its child
    text = file.read_text()
    assert "exit status 3" in text and "no end within 3 s" in text and "No module named no_such_program" in text
    assert text.count("a row\n") == 2 and "another row\n== part: exit status 0" in text
    child = int(next(line for line in text.splitlines() if line.startswith("child ")).split()[1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_part_of_tests_is_not_started_without_pytest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    file = tmp_path / "rows.txt"
    for name in ("kernels", "tests", "runs"):
        assert not run_part(name, PARTS[name], True, Results(file))
    lines = file.read_text().splitlines()
    sentence = "not started, since its tests need pytest, which is not installed: pip install pytest"
    assert [line for line in lines if line.startswith("==")] == [
        f"== {name}: {sentence}" for name in ("kernels", "tests", "runs")
    ]


def test_a_row_is_in_the_file_before_its_program_ends(tmp_path: Path) -> None:
    results = Results(tmp_path / "rows.txt")
    results.line("measured")
    assert (tmp_path / "rows.txt").read_text() == "measured\n"
