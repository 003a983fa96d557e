"""Names, roles and README lines of files in Microsoft's format. CPU, seconds."""

import pytest

from model.config import DualHeads, MultiwayConfig
from pretrain.conversion.beit3_target import Beit3Target
from pretrain.conversion.model_card import make_card, render_readme
from pretrain.formats.role import Role
from tests.support.sources import source_of


def test_the_default_role_is_that_of_pairs() -> None:
    target = Beit3Target(None)
    assert (target.role, target.weights_name, target.card_name) == ("fusion", "beit3_fusion.pth", "beit3_fusion.json")


def test_the_role_of_a_dual_encoder_is_dual() -> None:
    assert Beit3Target.fitting(None, None).role == "fusion" and Beit3Target.fitting(None, DualHeads()).role == "dual"
    assert Beit3Target.fitting("text", DualHeads()).role == "text"
    with pytest.raises(ValueError, match="never as pairs; use --role dual"):
        Beit3Target.fitting("fusion", DualHeads())


def test_the_card_of_a_dual_encoder_is_for_retrieval_first() -> None:
    target, heads = Beit3Target("dual"), DualHeads(logit_bias=True)
    card = make_card(target, source_of(MultiwayConfig(), heads=heads), None)
    assert card["exact_for"] == ["flickr30k", "coco_retrieval", "imagenet"]
    assert card["heads"] == {"logit_bias": True, "masked_data": False}
    text = render_readme([card])
    assert "The logit_bias of the sigmoid loss is left out" in text and "--task flickr30k " in text
    assert "def text_features(ids, padding)" in text
    without = render_readme([make_card(target, source_of(MultiwayConfig()), None)])
    assert "text_features" not in without and "left out" not in without


@pytest.mark.parametrize(("role", "task"), [("fusion", "vqav2"), ("dual", "imagenet"), ("text", "flickr30k")])
def test_readme_has_the_command_of_each_exact_task(role: Role, task: str) -> None:
    target = Beit3Target(role)
    text = render_readme([make_card(target, source_of(MultiwayConfig(num_vl_layers=3)), None)])
    assert f"--task {task} " in text and f'open("{target.card_name}")' in text
    assert "--task imagenet " not in text or role != "fusion"
