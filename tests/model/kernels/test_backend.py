"""The backend of each choice, and the errors for one that cannot run. CPU, seconds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.kernels import backend
from model.kernels.backend import choose_backend
from tests.support.launch import python_path

CPU = torch.device("cpu")
CUDA = torch.device("cuda")  # nothing is computed there


def test_auto_is_the_reference_on_a_cpu_and_triton_on_a_gpu() -> None:
    pytest.importorskip("triton")
    assert choose_backend("auto", CPU) == "reference"
    assert choose_backend("auto", CUDA) == "triton"


def test_triton_on_a_cpu_is_refused_outside_of_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "IS_INTERPRETED", False)
    with pytest.raises(ValueError, match="needs a GPU; set kernels to auto or reference"):
        choose_backend("triton", CPU)


def test_without_triton_everything_imports_and_auto_works(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ModuleNotFoundError(name='triton')\n")
    code = (
        "import torch, model.multiway, model.kernels.block_masks, model.kernels.text_masks\n"
        "from model.kernels.backend import choose_backend\n"
        "print(choose_backend('auto', torch.device('cuda')))\n"
        "choose_backend('triton', torch.device('cuda'))"
    )
    environment = {"PYTHONPATH": python_path(tmp_path), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.stdout.strip() == "reference"
    assert "kernels is triton, which is not installed" in ended.stderr.splitlines()[-1]
