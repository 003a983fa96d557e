"""The network: packed Multiway Transformer, masking, heads and losses, visual tokenizer.

Knows nothing of data files, DeepSpeed or runs: plain PyTorch modules and pure functions.
"""

from model.pretrained import load_pretrained

__all__ = ["load_pretrained"]
