"""Features of images and texts by the retrieval model in PyPI's beit3-gml, which is Microsoft's code: run as a script in
a process of its own, because its torchscale has the name of another package.

    python -m tests.support.their_features FOLDER_OF_PACKAGES FILE INPUTS FEATURES

INPUTS: a file of torch.save with the sizes, images, ids and padding. FILE is loaded strictly.
"""

import importlib
import sys

import torch

from pretrain.formats.timm import import_timm


def main(packages: str, file: str, inputs: str, out: str) -> None:
    """Write the features of the inputs, and the place of the classes that computed them."""
    sys.path.insert(0, packages)
    import_timm()
    torchscale = importlib.import_module("torchscale")
    assert torchscale.__path__[0].startswith(packages), torchscale.__path__
    given = torch.load(inputs, weights_only=True)
    arguments = importlib.import_module("torchscale.architecture.config").EncoderConfig(**given["torchscale"])
    network = importlib.import_module("beit3.modeling_finetune").BEiT3ForRetrieval(arguments)
    network.load_state_dict(torch.load(file, weights_only=True)["model"], strict=True)
    with torch.no_grad():
        images, texts = network.eval()(given["images"], given["ids"], given["padding"], only_infer=True)
    torch.save({"images": images, "texts": texts}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
