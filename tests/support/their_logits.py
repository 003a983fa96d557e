"""Logits by the classes of four tasks in PyPI's beit3-gml, which is Microsoft's code.

Run as a script in a process of its own, because its torchscale has the name of another package:

    python -m tests.support.their_logits FOLDER_OF_PACKAGES CASES LOGITS

CASES: a file of torch.save with, by name, the task, a file of weights, images, ids and padding, and either the name of
a model that their code registers, or torchscale's arguments and the number of classes. The files are loaded strictly.
The class of retrieval is that of their_features.py.
"""

import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from pretrain.formats.timm import import_timm

CLASSES = {
    "vqa": "BEiT3ForVisualQuestionAnswering",
    "nlvr2": "BEiT3ForVisualReasoning",
    "caption": "BEiT3ForCaptioning",
    "classify": "BEiT3ForImageClassification",
}


def main(packages: str, cases: str, out: str) -> None:
    """Write the logits by the names of the cases."""
    sys.path.insert(0, packages)
    import_timm()
    torchscale = importlib.import_module("torchscale")
    assert torchscale.__path__[0].startswith(packages), torchscale.__path__
    given = torch.load(cases, weights_only=True)
    torch.save({name: logits(case) for name, case in given.items()}, out)


@torch.no_grad()
def logits(case: dict[str, Any]) -> Tensor:
    """Return what their class answers."""
    finetuning = importlib.import_module("beit3.modeling_finetune")
    if "model" in case:
        with torch.device("meta"):  # the file replaces all weights, and random ones of that size take a minute
            network = getattr(finetuning, case["model"])().eval()
    else:
        arguments = importlib.import_module("torchscale.architecture.config").EncoderConfig(**case["torchscale"])
        outputs = {"num_classes": case["num_classes"]} if case["num_classes"] else {}
        network = getattr(finetuning, CLASSES[case["task"]])(arguments, **outputs).eval()
    network.load_state_dict(torch.load(case["file"], weights_only=True)["model"], strict=True, assign=True)
    images, ids, padding = case["images"], case["ids"], case["padding"]
    found: Tensor
    match case["task"]:
        case "vqa":
            found = network(images, ids, padding)
        case "nlvr2":
            (first, second), half = images.chunk(2), len(images) // 2
            found = network(first, second, ids[:half], padding[:half])
        case "caption":
            found, _ = network(images, ids, padding, None)
        case _:
            found = network(images)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
