"""Names, roles and README lines of files in Microsoft's format. CPU, seconds."""

import pytest

from model.config import CaptionHead, ClassHead, DualHeads, MultiwayConfig, Nlvr2Head, VqaHead
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


def test_a_network_of_a_task_has_one_role_and_the_command_that_evaluates_it() -> None:
    for heads, role, tasks in (
        (VqaHead(), "fusion", ["vqav2"]),
        (Nlvr2Head(), "fusion", ["nlvr2"]),
        (CaptionHead(), "fusion", ["coco_captioning", "nocaps"]),
        (ClassHead(), "vision", ["imagenet"]),
    ):
        target = Beit3Target.fitting(None, heads)
        card = make_card(target, source_of(MultiwayConfig(image_size=480), heads=heads), None)
        assert target.role == role and card["exact_for"] == list(card["finetuning"]) == tasks
        assert all(command.endswith(" --eval") for command in card["finetuning"].values())
        assert card["torchscale"]["normalize_output"] == heads.FINAL_NORM
    with pytest.raises(ValueError, match="a network of classify has one role, vision; leave out --role fusion"):
        Beit3Target.fitting("fusion", ClassHead())
    for other in (VqaHead(7), ClassHead(7)):
        card = make_card(Beit3Target.fitting(None, other), source_of(MultiwayConfig(), heads=other), None)
        assert "this network has 7" in card["not_finetuned"] and card["finetuning"] == {}


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
