"""The evaluation of a dual encoder: figures against numpy, whatever the chunks; mistakes in its data. CPU, seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.loading.config import DataConfig
from data_pipeline.texts.tokenizer import TextTokenizer
from model.dual_encoder import DualEncoder
from pretrain.config.evaluation import EvaluationConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.contrast import ContrastEvaluation
from pretrain.evaluation.dual_features import FeatureReader, FeatureSettings
from tests.support.evaluated import write_labelled
from tests.support.tiny import CONFIG, tiny_dual_encoder
from tests.support.tiny_run import TinyData

NAMES = (
    "loss/contrastive",
    *(f"retrieval/{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)),
    *("zero_shot/acc1", "knn/acc", "probe/acc"),
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_labelled(tmp_path_factory.mktemp("labelled") / "images"))


def settings_of(data: TinyData, chunk_size: int = 8) -> FeatureSettings:
    tokenizer = TextTokenizer(data.folder / "text_tokenizer.spm")
    size, patch = CONFIG.image_size, CONFIG.patch_size
    return FeatureSettings(size, patch, tokenizer, 12, chunk_size, torch.float32, torch.device("cpu"))


def network_of(data: TinyData) -> DualEncoder:
    return tiny_dual_encoder(vocab_size=settings_of(data).tokenizer.vocab_size)


def evaluation_of(data: TinyData, chunk_size: int = 8, **changes: Any) -> ContrastEvaluation:
    settings = EvaluationConfig(**({"pairs": str(data.folder / "pairs")} | changes))
    return ContrastEvaluation(settings, DataConfig(), settings_of(data, chunk_size))


def test_every_figure_is_that_of_all_features_at_once(tiny_data: TinyData, labelled: str) -> None:
    network = network_of(tiny_data)
    evaluation = evaluation_of(tiny_data, labelled=labelled)
    assert evaluation.names == NAMES and evaluation.pairs is not None
    evaluation.pairs.captions[5:8] = [evaluation.pairs.captions[3]] * 3  # ties, which count against
    found = evaluation.figures(network, Ranks())
    assert tuple(found) == NAMES
    reader, pairs = FeatureReader(network, settings_of(tiny_data, 100), Ranks()), evaluation.pairs
    assert pairs.num_images == len(pairs.captions) == 40
    images = reader.of_images(pairs, 40).rows.double().numpy()
    texts = reader.of_texts(pairs.captions).rows.double().numpy()
    logits = network.logit_scale.exp().item() * images @ texts.T
    rows, columns = (np.log(np.exp(part).sum(1)) - part.diagonal() for part in (logits, logits.T))
    assert found["loss/contrastive"] == pytest.approx((rows.mean() + columns.mean()) / 2, abs=1e-5)
    before = (logits.T >= logits.diagonal()[:, None] - 1e-4).sum(1) - 1
    assert found["retrieval/text_to_image_r5"] == (before < 5).mean()
    before = (logits >= logits.diagonal()[:, None] - 1e-4).sum(1) - 1
    assert found["retrieval/image_to_text_r10"] == (before < 10).mean()


def test_chunks_do_not_change_the_figures(tiny_data: TinyData, labelled: str) -> None:
    network = network_of(tiny_data)
    expected = evaluation_of(tiny_data, labelled=labelled).figures(network, Ranks())
    for chunk_size in (3, 64):
        found = evaluation_of(tiny_data, chunk_size, labelled=labelled).figures(network, Ranks())
        assert found == pytest.approx(expected, abs=1e-5)


def test_an_image_with_several_captions_is_asked_for_once(tiny_data: TinyData, tmp_path: Path) -> None:
    """Write each caption twice: the images find theirs as before, and the loss is that of the first captions."""
    lines = []
    single = evaluation_of(tiny_data).pairs
    assert single is not None
    for place, caption in enumerate(single.captions):
        (tmp_path / f"{place}.png").write_bytes(single.readers[place].read())
        lines += [f'{{"image": "{place}.png", "caption": ["{caption}", "{caption}"]}}\n']
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    network = network_of(tiny_data)
    expected = evaluation_of(tiny_data).figures(network, Ranks())
    double = evaluation_of(tiny_data, pairs=str(tmp_path / "pairs.jsonl"))
    assert double.describe() == [f"40 images with 80 captions from {tmp_path / 'pairs.jsonl'}"]
    found = double.figures(network, Ranks())
    for name in ("loss/contrastive", "retrieval/text_to_image_r1", "retrieval/text_to_image_r5"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    first = evaluation_of(tiny_data, pairs=str(tmp_path / "pairs.jsonl"), captions_per_image=1)
    assert first.figures(network, Ranks()) == pytest.approx(expected, abs=1e-5)


def test_images_that_cannot_be_read_are_no_candidates(tiny_data: TinyData) -> None:
    network, evaluation = network_of(tiny_data), evaluation_of(tiny_data)
    pairs = evaluation.pairs
    assert pairs is not None

    def fail() -> bytes:
        raise OSError("the disk is gone")

    for place in (0, 17):
        pairs.readers[place] = pairs.readers[place]._replace(read=fail)
    found = evaluation.figures(network, Ranks())
    expected = f"38 images with 38 captions from {pairs.source} (left out as unusable: 2)"
    assert evaluation.describe() == [expected]
    kept = [place for place in range(40) if place not in (0, 17)]
    pairs.readers[:] = [pairs.readers[place] for place in kept]
    pairs.captions[:] = [pairs.captions[place] for place in kept]
    pairs.image_of_caption.resize_(38).copy_(torch.arange(38))
    assert found == pytest.approx(evaluation.figures(network, Ranks()), abs=1e-5)


def test_parts_and_the_best_figure_are_chosen_by_name(tiny_data: TinyData, labelled: str) -> None:
    assert evaluation_of(tiny_data, parts=("losses",)).names == ("loss/contrastive",)
    assert evaluation_of(tiny_data, pairs=None, labelled=labelled, parts=("knn",)).names == ("knn/acc",)
    evaluation_of(tiny_data, best="retrieval/text_to_image_r1", best_is="highest")
    with pytest.raises(ValueError, match="evaluation.best words/acc is not a figure of this run; choose one of: loss/"):
        evaluation_of(tiny_data, best="words/acc")


def test_data_of_which_nothing_can_be_computed_is_refused(tiny_data: TinyData, labelled: str) -> None:
    with pytest.raises(ValueError, match="leave evaluation.images and evaluation.texts out"):
        evaluation_of(tiny_data, texts="texts")
    with pytest.raises(ValueError, match=r"none of evaluation.parts \(.*\) can be computed"):
        evaluation_of(tiny_data, parts=("knn", "words"))
    with pytest.raises(ValueError, match="none of its first 8 images can be read"):
        evaluation = replace(EvaluationConfig(), pairs=str(tiny_data.folder / "pairs"), chunk_size=8)
        ContrastEvaluation(evaluation, DataConfig(max_image_pixels=10), settings_of(tiny_data))
