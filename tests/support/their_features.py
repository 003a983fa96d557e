"""Features of images and texts by the retrieval model in PyPI's beit3-gml, which is Microsoft's code.

Run as a script in a process of its own, because its torchscale has the name of another package:

    python -m tests.support.their_features FOLDER_OF_PACKAGES CASES FEATURES

CASES: a file of torch.save with files of weights by name, torchscale's arguments, and images, ids and padding. The
files are loaded strictly.
"""

import importlib
import sys

import torch

from pretrain.formats.timm import import_timm


def main(packages: str, cases: str, out: str) -> None:
    """Write the features of images and of texts by the names of the files."""
    sys.path.insert(0, packages)
    import_timm()
    torchscale = importlib.import_module("torchscale")
    assert torchscale.__path__[0].startswith(packages), torchscale.__path__
    given, found = torch.load(cases, weights_only=True), {}
    arguments = importlib.import_module("torchscale.architecture.config").EncoderConfig(**given["torchscale"])
    network = importlib.import_module("beit3.modeling_finetune").BEiT3ForRetrieval(arguments).eval()
    for name, file in given["files"].items():
        network.load_state_dict(torch.load(file, weights_only=True)["model"], strict=True)
        with torch.no_grad():
            found[name] = network(given["images"], given["ids"], given["padding"], only_infer=True)
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
