"""Sources of a conversion that are not on disk."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.config import MultiwayConfig
from pretrain.conversion.source import Source
from pretrain.formats.preprocessing import default_preprocessing


def source_of(config: MultiwayConfig, named: Iterable[tuple[str, Tensor]] = (), **changes: Any) -> Source:
    """Return a source of named weights, without a text tokenizer."""
    source = Source("memory", config, lambda: iter(named), None, default_preprocessing(config), {})
    return replace(source, **changes)
