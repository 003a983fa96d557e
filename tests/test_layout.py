"""Layout of the repository: commands apart from machinery, one direction of imports, tests in the tree of sources."""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.launch import ROOT

PACKAGES = ("model", "data_pipeline", "pretrain")
FORBIDDEN = {
    "model": {"pretrain", "data_pipeline", "deepspeed", "tests"},
    "data_pipeline": {"pretrain", "model", "deepspeed", "tests"},
    "pretrain": {"tests"},
}
"""Packages that a package must not import, by name."""
FRONT_DOORS = {"model/__init__.py": {"pretrain.inference.pretrained_model"}}
"""Modules that a file may import from above its package: model.load_pretrained is the name that users type."""
COMMANDS = "commands"
FOLDERS = {
    "data_pipeline": [
        "samples", "files", "workers", "images", "settings", "shards", "sources", "texts", "loading", COMMANDS,
    ],
    "pretrain": [
        "survival", "formats", "config", "engine", "checkpoints", "monitoring", "jobs", "evaluation", "planning",
        "conversion", "inference", "recipes", "run", "diagnosis", "reporting", COMMANDS,
    ],
}  # fmt: skip
"""From low to high: a folder imports only those before it. Files directly in a package are the last."""
COPIED = ROOT / "pretrain" / "formats" / "transformers_files"
"""Files that are copied into another package, where transformers imports them: they import each other relatively."""
KERNELS_IMPORT = {"model.config", "model.expert_rows", "model.objective", "model.philox", "model.residual"}
"""Modules of model/ that its kernels know, beside each other: data they are launched on, no layers."""
MAX_COMMAND_LINES = {"pretrain": 40, "data_pipeline": 280}
"""Commands of the data pipeline hold their own work; those of runs share theirs, in folders."""
LONGER_COMMANDS = {"pretrain/demo.py": 160}
"""The demo is a script from top to bottom."""
UNMIRRORED = {"runs", "slurm", "fuzz", "benchmarks", "support", "golden"}
"""Folders of tests/ that mirror no source: whole runs, clusters, and files that pytest does not collect."""
UNTESTED = {
    # the data of pretraining and of tasks: tests/data_pipeline/loading/test_dataset.py, test_task_dataset.py
    "data_pipeline/loading/shard_dataset.py", "data_pipeline/loading/tensor_fields.py",
    # every run goes through them: tests/runs
    "pretrain/jobs/job.py", "pretrain/jobs/pretraining.py", "pretrain/run/loop.py",
    "pretrain/run/run_log.py", "pretrain/run/start.py", "pretrain/run/step_agreement.py",
    "pretrain/run/unchanged.py", "pretrain/survival/agreement.py", "pretrain/survival/stop.py",
    # the bound of logit_scale, under every ZeRO stage: tests/pretrain/jobs/test_contrast.py
    "pretrain/run/parameter_bounds.py",
    # every format is written, read back and compared: tests/pretrain/test_convert.py, tests/pretrain/conversion
    "pretrain/conversion/model_card.py", "pretrain/conversion/target.py", "pretrain/formats/beit3_file.py",
    "pretrain/formats/cpu_torchvision.py",
    # the README.md that it writes is executed: tests/test_documented_loading.py
    "pretrain/conversion/transformers_card.py",
    # every field: tests/pretrain/formats/test_transformers_folder.py
    "pretrain/formats/transformers_files/configuration_beit3.py",
    # every figure of an evaluated run, and of its checkpoint in one process: tests/runs/test_evaluate.py
    "pretrain/conversion/evaluated.py", "pretrain/evaluation/classes.py", "pretrain/evaluation/codes.py",
    "pretrain/evaluation/evaluation.py", "pretrain/evaluation/pretraining.py",
    "pretrain/evaluation/words.py",
    # ranks that share an evaluation, and one process: tests/pretrain/conversion/test_evaluated_contrast.py
    "pretrain/evaluation/launched.py",
    # weights under ZeRO-3, by the captions that they write: tests/runs/test_finetuned_evaluation.py
    "pretrain/engine/whole_network.py",
    # compared with torch's allocations: tests/pretrain/planning/test_memory.py
    "pretrain/planning/live_memory.py", "pretrain/planning/micro_step_memory.py",
    "pretrain/planning/planned_kind.py", "pretrain/planning/pretraining_kind.py",
    # each recipe: tests/pretrain/test_recipes.py
    "pretrain/recipes/beit3.py", "pretrain/recipes/contrast.py", "pretrain/recipes/finetuning.py",
    "pretrain/recipes/microsoft.py", "pretrain/recipes/retrieval.py", "pretrain/recipes/small.py",
    "pretrain/recipes/small_finetuning.py", "pretrain/recipes/vlbeit.py", "pretrain/recipes/vlmo.py",
    "pretrain/recipes/vqkd.py",
    # both commands on every kind of source: tests/pretrain/test_encode.py, tests/pretrain/test_caption.py
    "pretrain/inference/captioning.py", "pretrain/inference/encoding.py", "pretrain/inference/options.py",
    # make demo
    "pretrain/demo.py",
}  # fmt: skip
"""Modules with functions that have no test file of their own, with the tests that cover them."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, including imports in functions."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path.parent == COPIED, f"{path}: relative import"
            package = f"{'.'.join(COPIED.relative_to(ROOT).parts)}." if node.level else ""
            module = package + (node.module or "")
            submodules = {f"{module}.{alias.name}" for alias in node.names}
            names |= {name for name in submodules if module_file(name)} or {module}
    return names


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def own_imports(path: Path) -> list[Path]:
    """Return the project's files that a file imports."""
    files = (module_file(name) for name in imported(path) if name.split(".")[0] in (*PACKAGES, "tests"))
    return [file for file in files if file is not None and file != path]


def folder_of(path: Path) -> str:
    """Return the name of a source's folder in its package; files directly in it are `commands`."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else COMMANDS


def functions(path: Path) -> list[str]:
    return [node.name for node in tree(path).body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    for path in sources(package):
        names = imported(path) - FRONT_DOORS.get(str(path.relative_to(ROOT)), set())
        assert not {name.split(".")[0] for name in names} & FORBIDDEN[package], path


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_import_in_one_direction(package: str) -> None:
    order = FOLDERS[package]
    found = {folder_of(path) for path in sources(package)}
    assert found <= set(order), "a new folder: add it to FOLDERS"
    wrong = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path in sources(package)
        for other in own_imports(path)
        if other.relative_to(ROOT).parts[0] == package
        and path.name != "__init__.py"
        and other.name != "__init__.py"
        and order.index(folder_of(other)) > order.index(folder_of(path))
    ]
    assert wrong == []


def test_kernels_know_no_layers() -> None:
    for path in sorted((ROOT / "model/kernels").glob("*.py")):
        above = {name for name in imported(path) if name.startswith("model.") and not name.startswith("model.kernels")}
        assert above <= KERNELS_IMPORT, path


def test_no_module_imports_itself_through_others() -> None:
    graph = {path: own_imports(path) for package in PACKAGES for path in sources(package)}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


@pytest.mark.parametrize("package", ["data_pipeline", "pretrain"])
def test_modules_directly_in_a_package_are_commands(package: str) -> None:
    for path in sorted((ROOT / package).glob("*.py")):
        if path.name == "__init__.py":
            continue
        assert "main" in functions(path), f"{path}: no main()"
        last = tree(path).body[-1]
        assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'", path
        longest = LONGER_COMMANDS.get(str(path.relative_to(ROOT)), MAX_COMMAND_LINES[package])
        assert len(path.read_text().splitlines()) <= longest, f"{path}: machinery belongs into a folder"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_else_is_a_command(package: str) -> None:
    for path in sources(package):
        if package == "model" or folder_of(path) != COMMANDS:
            assert "main" not in functions(path), f"{path}: commands belong directly in {package}/"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_asks_the_question_that_it_answers(package: str) -> None:
    for init in (ROOT / package).rglob("__init__.py"):
        documentation = ast.get_docstring(tree(init)) or ""
        assert "?" in documentation or init.parent == ROOT / package, f"{init}: its docstring asks no question"
        assert documentation, init


def test_every_test_file_has_a_source_of_its_name() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        place = path.relative_to(ROOT / "tests")
        if len(place.parts) == 1 or place.parts[0] in UNMIRRORED:  # tests/test_*.py: of the repository as a whole
            continue
        source = ROOT / place.with_name(place.name.removeprefix("test_"))
        is_of_folder = source.with_suffix("").is_dir() or (source.stem == source.parent.name and source.parent.is_dir())
        assert source.is_file() or is_of_folder, f"{path} tests no source"


def test_every_module_with_functions_has_a_test_file() -> None:
    missing = set()
    for path in (path for package in PACKAGES for path in sources(package) if path.name != "__init__.py"):
        place = path.relative_to(ROOT)
        own = ROOT / "tests" / place.with_name(f"test_{place.name}")
        run = ROOT / "tests" / "runs" / f"test_{place.name}"
        is_command = folder_of(path) == COMMANDS and place.parts[0] != "model"
        has_functions = any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree(path)))
        if has_functions and not own.is_file() and not (is_command and run.is_file()):
            missing.add(str(place))
    assert missing - UNTESTED == set(), "give each a test file, or name it in UNTESTED with the reason"
    assert UNTESTED - missing == set(), "these are tested, or gone: remove them from UNTESTED"


def test_files_that_the_documentation_names_are_there() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    documents += [ROOT / folder / "README.md" for folder in ("data_pipeline", "ds_configs", "slurm")]
    for document in documents:
        for name in re.findall(r"\b(?:tests|model|data_pipeline|pretrain)/[\w/]+\.(?:py|md)\b", document.read_text()):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"


def test_setup_lists_every_package_and_imports_no_torch() -> None:
    assert not {name for name in imported(ROOT / "setup.py") if name.split(".")[0] == "torch"}
    setup = (ROOT / "setup.py").read_text()
    for package in PACKAGES:
        for init in (ROOT / package).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            assert f'"{name}"' in setup, name
