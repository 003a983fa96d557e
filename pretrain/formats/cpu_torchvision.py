"""Import this before timm or torchscale if torch is a CPU build:

    import pretrain.formats.cpu_torchvision
    import timm

Both import torchvision, whose wheel on PyPI is built for CUDA. With a CPU build of torch it cannot load its operators
and fails with "operator torchvision::nms does not exist". Declaring two of them is enough: nothing here calls them.
"""

import importlib
import sys
from contextlib import suppress

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_operators() -> None:
    """Make torchvision importable. Does nothing if it is already, or not installed."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:  # the operator does not exist
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what is left of the import that failed
        for name in ("nms", "qnms"):
            with suppress(RuntimeError):  # declared already
                torch.library.define(f"torchvision::{name}", SIGNATURE)


declare_operators()
