"""A card leads back to the target that wrote it. CPU, seconds."""

import pytest

from pretrain.conversion.model_card import make_card
from pretrain.conversion.target import Target
from pretrain.conversion.targets import TARGETS, target_of
from tests.support.sources import source_of
from tests.support.tiny import CONFIG


@pytest.mark.parametrize("kind", TARGETS.values(), ids=list(TARGETS))
def test_a_card_leads_back_to_its_target(kind: type[Target]) -> None:
    target = kind(None)
    found = target_of(make_card(target, source_of(CONFIG), None))
    assert type(found) is kind
    assert (found.role, found.weights_name, found.card_name) == (target.role, target.weights_name, target.card_name)
