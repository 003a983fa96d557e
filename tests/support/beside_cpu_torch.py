"""Imports of modules that need timm, with a CPU build of torch."""

import importlib
from types import ModuleType

from pretrain.formats.timm import import_timm


def import_beside_cpu_torch(name: str) -> ModuleType:
    """Import a module that itself imports timm."""
    import_timm()
    return importlib.import_module(name)
