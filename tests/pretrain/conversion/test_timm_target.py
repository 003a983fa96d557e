"""Export to timm: image towers without texts and words. CPU, seconds."""

from pathlib import Path

import pytest
import torch

from model.config import CaptionHead, ClassHead, Nlvr2Head, TaskHead, VqaHead
from model.pretrained import save_network
from pretrain.conversion.convert import convert
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.timm_target import TimmTarget
from pretrain.conversion.verify import TOLERANCE
from pretrain.formats.preprocessing import default_preprocessing, write_preprocessing
from pretrain.formats.timm import import_timm
from tests.support.sources import source_of
from tests.support.tiny import CONFIG, tiny_task_inputs, tiny_task_network


def test_a_role_with_texts_is_refused() -> None:
    assert TimmTarget(None).role == TimmTarget("vision").role == "vision"
    with pytest.raises(ValueError, match="timm's image towers have no texts, so role 'text' cannot be exact"):
        TimmTarget("text")


def test_only_images_are_compared_and_words_cannot_be_trimmed() -> None:
    target = TimmTarget(None)
    assert target.uses == ("image",) and not target.has_words and target.card_entries(source_of(CONFIG)) == {}


def test_a_classifier_keeps_its_head_and_its_normalisation(tmp_path: Path) -> None:
    heads, inputs = ClassHead(5), tiny_task_inputs(ClassHead(5))
    network = tiny_task_network(heads)
    (tmp_path / "ours").mkdir()
    save_network(dict(network.state_dict()), CONFIG, tmp_path / "ours", heads=heads)
    write_preprocessing(default_preprocessing(CONFIG, heads=heads), tmp_path / "ours")
    converted = convert(ConvertOptions(tmp_path / "ours", tmp_path / "tower", "timm", "safetensors"))
    assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
    tower = import_timm().create_model(f"local-dir:{tmp_path / 'tower'}", pretrained=True).eval()
    assert tower.default_cfg["mean"] == [0.485, 0.456, 0.406] and tower.num_classes == 5
    with torch.no_grad():
        torch.testing.assert_close(tower(inputs.images), network(inputs), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("heads", [VqaHead(), Nlvr2Head(), CaptionHead()], ids=str)
def test_networks_that_see_images_with_texts_are_refused(heads: TaskHead) -> None:
    with pytest.raises(ValueError, match=f"a network of {heads.TASK} sees images with texts.*; convert the weights"):
        TimmTarget.fitting(None, heads)
