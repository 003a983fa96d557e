"""The network: packed Multiway Transformer, masking, heads and losses, visual tokenizer.

Plain PyTorch modules and pure functions; nothing here depends on data files, DeepSpeed or runs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.pretrained import load_network as load_pretrained

__all__ = ["load_pretrained"]


def __getattr__(name: str) -> Any:
    # imported on first use: a command that only reads model.config for its --help must not wait for torch
    if name == "load_pretrained":
        from model.pretrained import load_network

        return load_network
    raise AttributeError(f"module 'model' has no attribute {name!r}")
