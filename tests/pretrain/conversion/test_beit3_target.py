"""Names, roles and README lines of files in Microsoft's format. CPU, seconds."""

import pytest

from model.config import MultiwayConfig
from pretrain.conversion.beit3_target import Beit3Target
from pretrain.conversion.model_card import make_card, render_readme
from pretrain.formats.role import Role
from tests.support.sources import source_of


def test_the_default_role_is_that_of_pairs() -> None:
    target = Beit3Target(None)
    assert (target.role, target.weights_name, target.card_name) == ("fusion", "beit3_fusion.pth", "beit3_fusion.json")


@pytest.mark.parametrize(("role", "task"), [("fusion", "vqav2"), ("dual", "imagenet"), ("text", "flickr30k")])
def test_readme_has_the_command_of_each_exact_task(role: Role, task: str) -> None:
    target = Beit3Target(role)
    text = render_readme([make_card(target, source_of(MultiwayConfig(num_vl_layers=3)), None)])
    assert f"--task {task} " in text and f'open("{target.card_name}")' in text
    assert "--task imagenet " not in text or role != "fusion"
