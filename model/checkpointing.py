"""Activation checkpointing: which activations of a block are kept for backward, and which are recomputed.

| mode | kept per block | recomputed |
| --- | --- | --- |
| none | whatever backward asks for | nothing |
| selective | its input and the results of matrix products and attention | norms, GELU, sums, reordering in attention |
| full | its input | everything but the last product, whose result no gradient needs |

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174); selective: Korthikanti et al.,
"Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), applied to all cheap operations.
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

EXPENSIVE_OPERATIONS = frozenset(
    [
        PRODUCTS_NAME,
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "torch_attn::_varlen_attn",
    ]
)
"""Operations whose results selective checkpointing keeps. Attention by any other operation is recomputed."""

T = TypeVar("T")
Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


def call_checkpointed(
    mode: CheckpointingMode, function: Callable[..., T], *arguments: Any, last_weights: Sequence[Tensor]
) -> T:
    """Return function(*arguments), checkpointed; the function must not draw random numbers.

    last_weights: each expert's weight in the last product, which full does not recompute. Empty recomputes everything;
    this is for code of torch.compile, which cannot run in a dispatch mode (so it excludes selective).
    """
    contexts: Contexts = noop_context_fn
    if mode == "selective":
        assert last_weights
        contexts = partial(create_selective_checkpoint_contexts, _policy)
    elif last_weights:
        contexts = partial(_contexts_without_products, last_weights)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_expensive = operation.name() in EXPENSIVE_OPERATIONS
    return CheckpointPolicy.MUST_SAVE if is_expensive else CheckpointPolicy.PREFER_RECOMPUTE


def _contexts_without_products(
    last_weights: Sequence[Tensor],
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of forward and of the recomputation."""
    return nullcontext(), _SkippedProducts(last_weights)


class _SkippedProducts(TorchDispatchMode):
    """Replaces products with these weights by uninitialized memory.

    For the recomputation of a block, whose last product nobody reads: a sum's gradient needs none of its terms.
    """

    def __init__(self, weights: Sequence[Tensor]):
        super().__init__()
        self.weights = weights

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == PRODUCTS_NAME and any(args[1][0] is weight for weight in self.weights):
            return args[0].new_empty(len(args[0]), len(args[1][0]))
        return func(*args, **(kwargs or {}))
