"""Are tensors of a file the weights of a network? The first difference is named."""

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
    """Raise ValueError, naming the first, if a tensor is missing, is not expected, or is no sound weight.

    owner: the file, for the message. expected: tensors of the right shapes, on any device.
    """
    for name in sorted(set(expected) | set(found), key=str):
        if name not in expected or name not in found:
            raise ValueError(f"{owner} has {_shape(found.get(name))} for {name}, expected {_shape(expected.get(name))}")
        check_weight(owner, name, found[name], expected[name].shape, dtypes)


def check_weight(
    owner: object, name: str, tensor: object, shape: torch.Size, dtypes: Collection[torch.dtype] = FLOAT32
) -> None:
    """Raise ValueError if a tensor is not dense, of one of the dtypes, of that shape, and finite."""
    if (defect := form_defect(tensor, shape, dtypes)) is not None:
        raise ValueError(f"{owner} has {defect[0]} for {name}, expected {defect[1]}")
    assert isinstance(tensor, Tensor)
    if tensor.numel() and not all(bound.isfinite() for bound in torch.aminmax(tensor.detach())):
        num_bad = int((~tensor.isfinite()).sum())
        raise ValueError(
            f"{owner} has NaN or infinity for {name}, in {num_bad} of {tensor.numel()} places; give a sound file"
        )


def form_defect(tensor: object, shape: torch.Size, dtypes: Collection[torch.dtype] = FLOAT32) -> tuple[str, str] | None:
    """Return what was found and what was expected, if it is no dense tensor of that shape; its values are not read."""
    if not isinstance(tensor, Tensor):
        return f"no tensor but {type(tensor).__name__}", "a tensor"
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
    if tensor.untyped_storage().nbytes() < tensor.nbytes:  # a stride of 0: small in the file, huge once copied
        return "one value many times", "as many values as the shape says"
    return None


def _shape(tensor: object) -> str:
    return "nothing" if tensor is None else str(tuple(tensor.shape)) if isinstance(tensor, Tensor) else "no tensor"


def _names(dtypes: Collection[torch.dtype]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
