"""Tensors of a file that are not the weights of a network are refused with the reason. CPU, seconds."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.weight_checks import check_weights
from model.weight_files import read_safetensors, read_torch_file


def meta() -> torch.Tensor:
    return torch.zeros(3, 2, device="meta")


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.quantize_per_tensor(torch.zeros(3, 2), 0.1, 0, torch.qint8)


DEFECTS: list[tuple[object, str]] = [
    (torch.zeros(3, 2, dtype=torch.int64), "int64 for w, expected float32"),
    (torch.zeros(3, 2, dtype=torch.complex64), "complex64 for w, expected float32"),
    (torch.zeros(3, 2, dtype=torch.float64), "float64 for w, expected float32"),
    (torch.zeros(3, 2, dtype=torch.float16), "float16 for w, expected float32"),
    (torch.zeros(3, 2, dtype=torch.bfloat16), "bfloat16 for w, expected float32"),
    (torch.zeros(3, 2).to_sparse(), "a sparse_coo tensor for w, expected a dense one"),
    (quantized(), "a quantized tensor for w, expected float32"),
    (meta(), r"a tensor without values \(meta\) for w"),
    (torch.zeros(1, 1).expand(3, 2), "one value many times for w"),
    (torch.zeros(2, 3), r"\(2, 3\) for w, expected \(3, 2\)"),
    (torch.full((3, 2), torch.nan), "NaN or infinity for w, in 6 of 6 elements; use a valid file"),
    (torch.tensor([[1.0, 2.0], [-torch.inf, 0.0], [0.0, 0.0]]), "NaN or infinity for w, in 1 of 6 elements"),
    ([1.0, 2.0], "a list instead of a tensor for w, expected a tensor"),
    ("weights", "a str instead of a tensor for w, expected a tensor"),
]


@pytest.mark.parametrize(("value", "message"), DEFECTS, ids=[message[:24] for _, message in DEFECTS])
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_the_error_names_the_defect_of_a_weight(value: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"w": value}, path)
    with pytest.raises(ValueError, match=f"{path} has {message}"):
        check_weights(path, read_torch_file(path), {"w": meta()})


def test_weights_that_are_missing_or_not_expected_are_named() -> None:
    w = torch.zeros(3, 2)
    check_weights("file", {"w": w}, {"w": meta()})
    with pytest.raises(ValueError, match=r"file has nothing for v, expected \(3, 2\)"):
        check_weights("file", {"w": w}, {"w": meta(), "v": meta()})
    with pytest.raises(ValueError, match=r"file has \(3, 2\) for v, expected nothing"):
        check_weights("file", {"w": w, "v": w}, {"w": meta()})
    with pytest.raises(ValueError, match="file has a str for 7, expected nothing"):
        check_weights("file", {"w": w, 7: "x"}, {"w": meta()})  # type: ignore[dict-item]


def test_safetensors_of_another_dtype_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3, 2).half()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has float16 for w, expected float32"):
        check_weights("model.safetensors", read_safetensors(tmp_path / "model.safetensors"), {"w": meta()})
