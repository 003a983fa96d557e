"""Values of IMGLISH_RUNTIME. No Slurm: srun and the container programs only print their arguments."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.launch import ROOT

SCRIPT = """
srun() { printf '%s\\n' "$@"; }
module() { echo "module $*"; }
source slurm/runtime.sh || exit
srun "${srun_options[@]}" "${python[@]}" -m some.module
"""


def words(folder: Path, runtime: str, **environment: str) -> list[str]:
    """Return the command that a job would run, as a list of words."""
    (folder / "env.sh").write_text(f'IMGLISH_RUNTIME="{runtime}"\n')
    ended = subprocess.run(
        ["bash", "-u", "-c", SCRIPT],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "IMGLISH_ENV": str(folder / "env.sh"), **environment},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert ended.returncode in (0, 2)
    return ended.stdout.splitlines()


def test_without_a_runtime_python_is_found_on_the_path(tmp_path: Path) -> None:
    assert words(tmp_path, "") == ["--cpus-per-task=1", "python", "-u", "-m", "some.module"]


def test_modules_are_loaded_before_an_environment_is_activated(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("echo activated\n")
    found = words(tmp_path, f"module:cuda/12.8 module:python venv:{tmp_path}/venv", SLURM_CPUS_PER_TASK="3")
    assert found[:4] == ["module load cuda/12.8", "module load python", "activated", "--cpus-per-task=3"]


@pytest.mark.parametrize("gpus", [{}, {"SLURM_GPUS_ON_NODE": "8"}], ids=["cpu", "gpu"])
def test_ranks_run_in_an_image_of_apptainer_that_shows_the_checkout(gpus: dict[str, str], tmp_path: Path) -> None:
    found = words(tmp_path, "apptainer:/images/imglish.sif", IMGLISH_MOUNTS="/scratch,/project", **gpus)
    mounts = ["--bind", f"{ROOT},/scratch,/project", "--pwd", str(ROOT)]
    image = ["/images/imglish.sif", "python", "-u", "-m", "some.module"]
    assert found == ["--cpus-per-task=1", "apptainer", "exec", *(["--nv"] if gpus else []), *mounts, *image]


def test_ranks_run_in_an_image_of_pyxis_that_shows_the_checkout(tmp_path: Path) -> None:
    found = words(tmp_path, "pyxis:me@registry#imglish:1", IMGLISH_MOUNTS="/scratch")
    mounts = f"--container-mounts={ROOT}:{ROOT},/scratch:/scratch"
    options = ["--container-image=me@registry#imglish:1", mounts, f"--container-workdir={ROOT}"]
    assert found == ["--cpus-per-task=1", *options, "python", "-u", "-m", "some.module"]


def test_an_unknown_kind_and_a_folder_that_is_not_an_environment_are_refused(tmp_path: Path) -> None:
    (said,) = words(tmp_path, "conda:imglish")
    kinds = "module:NAME, venv:FOLDER, apptainer:IMAGE or pyxis:IMAGE"
    assert said == f"error: conda:imglish of IMGLISH_RUNTIME must be {kinds}"
    (said,) = words(tmp_path, "venv:nowhere")
    assert said.startswith("error: venv:nowhere of IMGLISH_RUNTIME is not a virtual environment on ")
