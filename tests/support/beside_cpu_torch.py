"""Imports of what needs timm beside a CPU build of torch."""

import importlib
from types import ModuleType

from pretrain.formats.timm import import_timm


def import_beside_cpu_torch(name: str) -> ModuleType:
    """A module that imports timm on its way."""
    import_timm()
    return importlib.import_module(name)
