"""Zero-shot classification of labelled images, with and without files of names. CPU, seconds."""

from pathlib import Path

import pytest
import torch

from data_pipeline.loading.config import DataConfig
from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.class_figures import ClassFigures
from pretrain.evaluation.dual_features import FeatureReader, FeatureSettings
from pretrain.evaluation.features import knn_accuracy
from pretrain.evaluation.labelled import Labelled, open_labelled
from pretrain.evaluation.zero_shot import class_features
from tests.support.evaluated import write_labelled
from tests.support.tiny import CONFIG, tiny_dual_encoder
from tests.support.tiny_run import TinyData

CLASS_NAMES = ["red circle", "green star", "blue cross"]
TEMPLATES = ("a {}", "there is a {}")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    folder = write_labelled(tmp_path_factory.mktemp("labelled") / "images")
    return open_labelled(str(folder), 100, DataConfig(), CONFIG.image_size, True)


@pytest.fixture
def reader(tiny_data: TinyData) -> FeatureReader:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    size, patch = CONFIG.image_size, CONFIG.patch_size
    settings = FeatureSettings(size, patch, tokenizer, 12, 5, torch.float32, torch.device("cpu"))
    return FeatureReader(tiny_dual_encoder(vocab_size=tokenizer.vocab_size), settings, Ranks())


def test_every_image_is_tested_and_half_of_them_by_neighbors(labelled: Labelled, reader: FeatureReader) -> None:
    figures = ClassFigures(labelled, ("zero_shot", "knn", "probe"), CLASS_NAMES, TEMPLATES)
    found = figures.figures(reader)
    assert figures.names == tuple(found) == ("zero_shot/acc1", "knn/acc", "probe/acc")
    images = reader.of_images(labelled, 12).rows
    texts = reader.of_texts([template.format(name) for name in CLASS_NAMES for template in TEMPLATES]).rows
    nearest = (images @ class_features(texts, 3).T).argmax(1)
    assert found["zero_shot/acc1"] == (nearest == labelled.labels).float().mean()
    (training, its_labels), (tested, expected) = (
        (images[chosen], labelled.labels[chosen]) for chosen in (~labelled.is_test, labelled.is_test)
    )
    assert found["knn/acc"] == knn_accuracy(training, its_labels, tested, expected)


def test_classes_without_a_chosen_image_are_candidates(tmp_path: Path, reader: FeatureReader) -> None:
    folder = write_labelled(tmp_path / "images", num_classes=8)
    few = open_labelled(str(folder), 12, DataConfig(), CONFIG.image_size, True)
    assert len(few.classes) == 8 and len(few.labels) == 12
    figures = ClassFigures(few, ("zero_shot",), [f"class {number}" for number in range(8)], TEMPLATES)
    assert figures.names == ("zero_shot/acc1", "zero_shot/acc5")
    assert 0 <= figures.figures(reader)["zero_shot/acc1"] <= figures.figures(reader)["zero_shot/acc5"] <= 1
