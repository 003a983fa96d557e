"""The network: packed Multiway Transformer, masking, heads and losses, visual tokenizer.

Plain PyTorch modules and pure functions; nothing here depends on data files, DeepSpeed or runs. `load_pretrained` alone
leads out of this package, to the weights, preprocessing and text tokenizer of a run or an export.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.inference.pretrained_model import PretrainedModel, load_pretrained

__all__ = ["PretrainedModel", "load_pretrained"]


def __getattr__(name: str) -> Any:
    # imported on first use: a command that only reads model.config for its --help must not wait for torch
    if name in __all__:
        from pretrain.inference import pretrained_model

        return getattr(pretrained_model, name)
    raise AttributeError(f"module 'model' has no attribute {name!r}")
