"""Which backend a choice gives, and what is said of one that cannot run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.kernels.backend import choose_backend
from tests.launch import ROOT

CPU = torch.device("cpu")
CUDA = torch.device("cuda")  # nothing is computed there


def test_auto_is_the_reference_on_a_cpu_and_triton_on_a_gpu() -> None:
    pytest.importorskip("triton")
    assert choose_backend("auto", CPU) == "reference"
    assert choose_backend("auto", CUDA) == "triton"


def test_triton_on_a_cpu_is_refused_outside_of_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a GPU; set kernels to auto or reference"):
        choose_backend("triton", CPU)


def test_apex_needs_a_gpu_and_an_installation() -> None:
    with pytest.raises(ValueError, match="needs a GPU"):
        choose_backend("apex", CPU)
    with pytest.raises(ValueError, match=r"not installed; build it from github.com/NVIDIA/apex"):
        choose_backend("apex", CUDA)


def test_the_other_project_called_apex_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("def includeme(config): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not NVIDIA's but another project of that name"):
        choose_backend("apex", CUDA)


def test_without_triton_everything_imports_and_auto_works(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ModuleNotFoundError(name='triton')\n")
    code = (
        "import torch, model.multiway, model.kernels.block_masks, model.kernels.text_masks\n"
        "from model.kernels.backend import choose_backend\n"
        "print(choose_backend('auto', torch.device('cuda')))\n"
        "choose_backend('triton', torch.device('cuda'))"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.stdout.strip() == "reference"
    assert "kernels is triton, which is not installed" in ended.stderr.splitlines()[-1]
