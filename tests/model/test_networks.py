"""Networks by their settings. CPU, seconds."""

import pytest
import torch

from model.config import CaptionHead, Checkpointing, ClassHead, DualHeads, Nlvr2Head, TaskHead, VqaHead
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel
from model.networks import TaskNetworks, build_network
from model.task_networks import CaptionNetwork, ClassifyNetwork, Nlvr2Network, VqaNetwork
from tests.support.tiny import CONFIG


@pytest.mark.parametrize(
    ("heads", "kind"),
    [
        (VqaHead(7), VqaNetwork),
        (Nlvr2Head(), Nlvr2Network),
        (CaptionHead(), CaptionNetwork),
        (ClassHead(5), ClassifyNetwork),
    ],
)
def test_heads_of_a_task_make_its_network(heads: TaskHead, kind: type[TaskNetworks]) -> None:
    with torch.device("meta"):
        network = build_network(CONFIG, heads, "reference", Checkpointing("full"))
    assert type(network) is kind and network.heads == heads
    assert network.encoder.kernels == "reference" and network.encoder.checkpointing == Checkpointing("full")


def test_heads_make_a_dual_encoder() -> None:
    with torch.device("meta"):
        pretrained, dual = build_network(CONFIG), build_network(CONFIG, DualHeads(masked_data=True))
    assert isinstance(pretrained, MaskedDataModel) and pretrained.encoder.config == CONFIG
    assert isinstance(dual, DualEncoder) and dual.heads == DualHeads(masked_data=True)
    assert set(pretrained.state_dict()) < set(dual.state_dict())
