"""Activation checkpointing: what of a block is kept for backward, and what is computed again there.

| mode | kept of a block | computed again |
| --- | --- | --- |
| none | whatever backward asks for | nothing |
| selective | its input and the results of matrix products and attention | norms, GELU, sums, attention's rearranging |
| full | its input | everything but the last product, whose result no gradient asks for |

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174); selective: Korthikanti et al.,
"Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), with the cheap operations.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from model.config import CheckpointingMode
from model.kernels.expert_linear import PRODUCTS_NAME

DEAR = frozenset(
    [
        PRODUCTS_NAME,
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "torch_attn::_varlen_attn",
    ]
)
"""Operations whose results selective checkpointing keeps. Attention that none of them computes is computed again."""

T = TypeVar("T")
Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


def call_checkpointed(
    mode: CheckpointingMode, function: Callable[..., T], *arguments: Any, last_weights: Sequence[Tensor]
) -> T:
    """function(*arguments), which computes no random numbers.

    last_weights: of each expert, in the product that full leaves out; none: it leaves none out, as what torch.compile
    makes needs it, which runs in no dispatch mode. So selective does not go with it.
    """
    contexts: Contexts = noop_context_fn
    if mode == "selective":
        assert last_weights
        contexts = partial(create_selective_checkpoint_contexts, _policy)
    elif last_weights:
        contexts = partial(_forward_and_again, last_weights)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation.name() in DEAR else CheckpointPolicy.PREFER_RECOMPUTE


def _forward_and_again(
    last_weights: Sequence[Tensor],
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _WithoutProducts(last_weights)


class _WithoutProducts(TorchDispatchMode):
    """Leaves the products with these weights out: memory that nobody reads stands for their result."""

    def __init__(self, weights: Sequence[Tensor]):
        super().__init__()
        self.weights = weights

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == PRODUCTS_NAME and any(args[1][0] is weight for weight in self.weights):
            return args[0].new_empty(len(args[0]), len(args[1][0]))
        return func(*args, **(kwargs or {}))
