"""The network: packed Multiway Transformer, masking, heads and losses, visual tokenizer.

Knows nothing of data files, DeepSpeed or runs: plain PyTorch modules and pure functions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.pretrained import load_pretrained

__all__ = ["load_pretrained"]


def __getattr__(name: str) -> Any:
    """Import `load_pretrained` on first use (PEP 562), so that importing `model.config` does not import torch.

    Raises AttributeError for any other name.
    """
    if name == "load_pretrained":
        from model.pretrained import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
