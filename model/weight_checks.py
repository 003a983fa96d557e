"""Checks that the tensors of a file are the weights of a network; errors name the first difference."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

FLOAT32 = (torch.float32,)


def check_weights(
    owner: object,
    found: Mapping[str, object],
    expected: Mapping[str, Tensor],
    dtypes: Collection[torch.dtype] = FLOAT32,
) -> None:
    """Raise ValueError for the first tensor that is missing, unexpected or not a valid weight.

    owner: the file, for the message; expected: tensors of the right shapes, on any device.
    """
    for name in sorted(set(expected) | set(found), key=str):
        if name not in expected or name not in found:
            raise ValueError(f"{owner} has {_shape(found.get(name))} for {name}, expected {_shape(expected.get(name))}")
        check_weight(owner, name, found[name], expected[name].shape, dtypes)


def check_weight(
    owner: object, name: str, tensor: object, shape: torch.Size, dtypes: Collection[torch.dtype] = FLOAT32
) -> None:
    """Raise ValueError unless a tensor is dense and finite, and has that shape and one of the dtypes."""
    if (defect := form_defect(tensor, shape, dtypes)) is not None:
        raise ValueError(f"{owner} has {defect[0]} for {name}, expected {defect[1]}")
    assert isinstance(tensor, Tensor)
    if tensor.numel() and not all(bound.isfinite() for bound in torch.aminmax(tensor.detach())):
        num_bad = int((~tensor.isfinite()).sum())
        raise ValueError(
            f"{owner} has NaN or infinity for {name}, in {num_bad} of {tensor.numel()} elements; use a valid file"
        )


def form_defect(tensor: object, shape: torch.Size, dtypes: Collection[torch.dtype] = FLOAT32) -> tuple[str, str] | None:
    """Return (found, expected) in words if `tensor` is not a dense tensor of that shape and one of the dtypes, else
    None.

    Its values are not read.
    """
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__} instead of a tensor", "a tensor"
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__}", "a plain tensor"
    if tensor.is_quantized:
        return "a quantized tensor", _names(dtypes)
    if tensor.layout != torch.strided:
        return f"a {str(tensor.layout).removeprefix('torch.')} tensor", "a dense one"
    if tensor.is_meta:
        return "a tensor without values (meta)", "one with values"
    if tensor.dtype not in dtypes:
        return _names([tensor.dtype]), _names(dtypes)
    if tensor.shape != shape:
        return str(tuple(tensor.shape)), str(tuple(shape))
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if extent < tensor.numel():  # such as a stride of 0: tiny in the file, huge once copied
        return "one value many times", "as many values as its shape has"
    return None


def _shape(tensor: object) -> str:
    if tensor is None:
        return "nothing"
    return str(tuple(tensor.shape)) if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"


def _names(dtypes: Collection[torch.dtype]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
