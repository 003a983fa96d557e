"""The vectors of a module, its norms and biases, as one parameter.

ZeRO-3 handles every parameter by itself: the host slices each of them once per rank when it gathers and again when it
reduces. Most tensors of a Multiway Transformer are vectors, which hold 0.1 percent of its weights: 743 of the giant's
997. A block therefore trains one parameter, `vectors`, in which all of them lie one after the other, and the giant has
298 (tests/benchmarks/bench_host.py measures what that saves). A dual encoder's single numbers lie in one too: DeepSpeed
0.19.8 cannot broadcast a parameter without dimensions.

Only training knows about it. `state_dict` has every vector under its own name, `blocks.3.attn.qkv.shared.bias`, as a
view, and `load_state_dict` takes those names, so files, formats and users' code do not depend on what is stacked. Under
ZeRO-3, whose parameters are empty between two gathers, both use `vectors` as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

NAME = "vectors"
"""Name of the parameter in its module."""


@dataclass(frozen=True)
class Stack:
    """One vector per expert, such as the weights of a norm: a matrix (E, width) in the parameter."""

    name: str
    """Name of each vector in a state dict, with {} for its expert: norm1.{}.weight."""
    experts: tuple[str, ...]
    width: int
    is_scalar: bool = False
    """Whether each vector is a single number, without dimensions in a state dict; its width is 1."""


class Row(NamedTuple):
    """One vector's place in the parameter."""

    name: str
    start: int
    length: int
    is_scalar: bool = False

    @property
    def shape(self) -> torch.Size:
        """Its shape in a state dict."""
        return torch.Size(() if self.is_scalar else (self.length,))


StackedRows = Mapping[str, Sequence[Row]]
"""The rows of each stacked parameter of a network, by its name; the names of rows are whole ones too."""
NOTHING_STACKED: StackedRows = {}


def register_vectors(module: nn.Module, stacks: Sequence[Stack]) -> None:
    """Give a module its parameter `vectors`, with weights 1 and biases 0, and state dicts the names of the rows.

    The module keeps the stacks as `stacks`, by which `stacked_rows` finds them.
    """
    rows = rows_of_stacks(stacks)
    parts = [torch.full((row.length,), float(row.name.endswith("weight"))) for row in rows]
    module.register_parameter(NAME, nn.Parameter(torch.cat(parts)))
    module.register_state_dict_post_hook(partial(_unstack, rows))
    module.register_load_state_dict_pre_hook(partial(_stack, rows))


def split_vectors(vectors: Tensor, stacks: Sequence[Stack]) -> list[Tensor]:
    """Return a copy of each stack, (E, width).

    One copy of all and one concatenation in backward, which fills in zeros for what was not used. A copy on purpose:
    ZeRO-3 frees the gathered parameters after the block, but a view that backward has saved would keep their memory
    alive.
    """
    parts = vectors.clone().split([len(stack.experts) * stack.width for stack in stacks])
    return [part.view(len(stack.experts), stack.width) for part, stack in zip(parts, stacks, strict=True)]


def rows_of_stacks(stacks: Sequence[Stack]) -> list[Row]:
    """Return the rows in the order in which they lie in the parameter."""
    rows, start = [], 0
    for stack in stacks:
        for expert in stack.experts:
            rows.append(Row(stack.name.format(expert), start, stack.width, stack.is_scalar))
            start += stack.width
    return rows


def stacked_rows(network: nn.Module) -> StackedRows:
    """Return the rows of every stacked parameter of a network."""
    found = {}
    for name, module in network.named_modules():
        stacks: Sequence[Stack] | None = getattr(module, "stacks", None)
        if stacks is not None:
            prefix = f"{name}." if name else ""
            found[prefix + NAME] = [row._replace(name=prefix + row.name) for row in rows_of_stacks(stacks)]
    return found


def _unstack(rows: Sequence[Row], module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Replace the parameter in a state dict by views of its rows."""
    if hasattr(module.vectors, "ds_id"):  # ZeRO-3: the state dict of an engine has what the rank holds of it
        return
    vectors = state_dict.pop(prefix + NAME)
    state_dict.update((prefix + row.name, vectors.narrow(0, row.start, row.length).view(row.shape)) for row in rows)


def _stack(
    rows: Sequence[Row],
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_messages: list[str],
) -> None:
    """Replace the rows in a state dict that is about to be loaded by the parameter; report wrong ones as torch does."""
    if prefix + NAME in state_dict:
        return
    own, found = cast(Tensor, module.vectors).detach(), {}
    for row in rows:
        key = prefix + row.name
        if key not in state_dict:
            missing_keys.append(key)
            continue
        value = state_dict.pop(key)
        if getattr(value, "shape", None) == row.shape:
            found[row] = value.flatten()
        else:
            shape = getattr(value, "shape", type(value).__name__)
            error_messages.append(
                f"size mismatch for {key}: copying a param with shape {shape} from checkpoint, the shape in current "
                f"model is {row.shape}."
            )
    if len(found) == len(rows):
        state_dict[prefix + NAME] = torch.cat(list(found.values()))
        return
    vectors = own.clone()  # what is missing keeps its value
    for row, value in found.items():
        vectors.narrow(0, row.start, row.length).copy_(value)
    state_dict[prefix + NAME] = vectors
