"""NVIDIA apex: recognised, distinguished from its namesake, and called with its signatures. CPU, seconds."""

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend, choose_backend
from model.kernels.expert_linear import expert_linear
from model.kernels.expert_norm import expert_norm
from tests.support.kernels import assert_same, random_tensors

CPU = torch.device("cpu")
CUDA = torch.device("cuda")  # nothing is computed there


@pytest.fixture(autouse=True)
def _forget_apex() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


def test_apex_needs_a_gpu_and_an_installation() -> None:
    with pytest.raises(ValueError, match="needs a GPU"):
        choose_backend("apex", CPU)
    if importlib.util.find_spec("apex") is not None:
        pytest.skip("apex is installed")
    with pytest.raises(ValueError, match=r"not installed; build it from github.com/NVIDIA/apex"):
        choose_backend("apex", CUDA)


def test_the_other_project_called_apex_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("from pyramid_mailer import mailer_factory_from_settings\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not NVIDIA's but another project of that name"):
        choose_backend("apex", CUDA)


def test_apex_is_called_with_its_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses a small apex in plain torch, with the names and signatures of NVIDIA's."""
    files = {
        "apex/__init__.py": "",
        "apex/normalization/__init__.py": "",
        "apex/normalization/fused_layer_norm.py": (
            "from torch.nn.functional import layer_norm\n"
            "def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):\n"
            "    return layer_norm(input, normalized_shape, weight, bias, eps)\n"
        ),
        "apex/fused_dense/__init__.py": (
            "from torch.nn.functional import linear\n"
            "class FusedDenseFunc:\n"
            "    @staticmethod\n"
            "    def apply(input, weight, bias):\n"
            "        return linear(input, weight, bias)\n"
        ),
        "fused_layer_norm_cuda.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="without its extension fused_dense_cuda; build it with APEX_CUDA_EXT=1"):
        choose_backend("apex", CUDA)
    (tmp_path / "fused_dense_cuda.py").touch()
    importlib.invalidate_caches()
    assert choose_backend("apex", CUDA) == "apex"

    rows = ExpertRows((0, 0, 5, 9), (0, 0, 1, 1))
    inputs = random_tensors(0, (9, 6), (2, 6), (2, 6), (4, 6), (4, 6), (4,), (4,))

    def network(x: Tensor, weight: Tensor, bias: Tensor, *linear: Tensor, computed_by: Backend) -> Tensor:
        normed = expert_norm(x, weight, bias, rows, computed_by)
        return expert_linear(normed, linear[:2], linear[2:], rows, computed_by)

    assert_same(partial(network, computed_by="apex"), partial(network, computed_by="reference"), inputs)
