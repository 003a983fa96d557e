"""Export to timm: image towers without texts and words. CPU, seconds."""

import pytest

from pretrain.conversion.timm_target import TimmTarget
from tests.support.sources import source_of
from tests.support.tiny import CONFIG


def test_a_role_with_texts_is_refused() -> None:
    assert TimmTarget(None).role == TimmTarget("vision").role == "vision"
    with pytest.raises(ValueError, match="timm's image towers have no texts, so role 'text' cannot be exact"):
        TimmTarget("text")


def test_only_images_are_compared_and_words_cannot_be_trimmed() -> None:
    target = TimmTarget(None)
    assert target.uses == ("image",) and not target.has_words and target.card_entries(source_of(CONFIG)) == {}
