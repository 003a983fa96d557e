"""The object that users hold: features, similarities and captions from Python. CPU, seconds."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.samples.scenes import draw_samples
from data_pipeline.texts.tokenizer import EOS_ID, TextTokenizer
from model import load_pretrained
from model.captioner import captions
from model.config import DualHeads
from model.masked_data_model import MaskedDataModel
from pretrain.inference.pretrained_model import PretrainedModel, chosen_device, chosen_dtype
from tests.support.opened import LENGTH, SIZE, tiny_opened, write_export
from tests.support.tiny import tiny_dual_encoder, tiny_model
from tests.support.tiny_run import TinyData

TEXTS = ["a red circle", "a star", "on gray there is a cross"]
LONG = "a big red circle at the left on white and a star and a cross"


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [sample.image for sample in draw_samples("image", 5) if sample.image is not None]


@pytest.fixture
def model(tiny_data: TinyData) -> PretrainedModel:
    return PretrainedModel(tiny_opened(tiny_data), "cpu")


@pytest.fixture
def dual(tiny_data: TinyData) -> PretrainedModel:
    return PretrainedModel(tiny_opened(tiny_data, is_dual=True), "cpu", batch_size=2)


def test_three_lines_use_an_export(tiny_data: TinyData, pictures: list[bytes], tmp_path: Path) -> None:
    model = load_pretrained(write_export(tmp_path / "export", tiny_data), device="cpu")
    assert model.encode_image(pictures).shape == (5, 32)
    assert model.encode_text("a red circle").shape == (1, 32)
    assert isinstance(model, PretrainedModel) and model.preprocessing.image_size == SIZE
    assert not model.network.training and not any(p.requires_grad for p in model.network.parameters())


def test_the_batch_size_changes_no_feature(tiny_data: TinyData, pictures: list[bytes]) -> None:
    for calls in (
        lambda m: m.encode_image(pictures, "mean"),
        lambda m: m.encode_text([*TEXTS, *TEXTS], "tokens"),
        lambda m: m.encode_pair(pictures[:3], TEXTS, "tokens"),
    ):
        one, many = (calls(PretrainedModel(tiny_opened(tiny_data), "cpu", batch_size=size)) for size in (1, 32))
        torch.testing.assert_close(one, many, atol=2e-6, rtol=0)


def test_a_text_changes_the_features_of_its_pair(model: PretrainedModel, pictures: list[bytes]) -> None:
    one, other = model.encode_pair(pictures[:1] * 2, ["a red circle", "a blue star"])
    assert (one - other).abs().max() > 1e-3


def test_similarities_are_cosines_of_projected_features(dual: PretrainedModel, pictures: list[bytes]) -> None:
    found = dual.similarity(pictures, TEXTS)
    assert found.shape == (5, 3) and found.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(found, dual.encode_image(pictures) @ dual.encode_text(TEXTS).T)
    assert found.std() > 1e-4


@pytest.mark.parametrize("texts", [None, 3, [1, 2], ["a star", None]])
def test_other_values_than_texts_are_refused(model: PretrainedModel, texts: Any) -> None:
    with pytest.raises(ValueError, match="a text is of type (NoneType|int); give a str, or a list of them"):
        model.encode_text(texts)


def test_texts_are_taken_from_every_iterable(model: PretrainedModel) -> None:
    expected = model.encode_text(TEXTS)
    for texts in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), iter(TEXTS)):
        assert torch.equal(model.encode_text(texts), expected)  # type: ignore[arg-type]


def test_cosines_become_probabilities_by_numbers_of_the_weights(tiny_data: TinyData) -> None:
    network = tiny_dual_encoder(DualHeads(logit_bias=True), vocab_size=120)
    with torch.no_grad():
        network.vectors.copy_(torch.tensor([math.log(37.25), -9.37]))
    opened = replace(tiny_opened(tiny_data), network=network)
    dual = PretrainedModel(opened, "cpu", "bfloat16")  # whose 8 bits have neither number
    assert dual.logit_scale == pytest.approx(37.25) and dual.logit_bias == pytest.approx(-9.37)
    model = PretrainedModel(tiny_opened(tiny_data), "cpu")
    assert model.logit_scale is None and model.logit_bias is None


def test_outputs_that_are_not_finite_are_refused(
    model: PretrainedModel, dual: PretrainedModel, pictures: list[bytes]
) -> None:
    model.network.mlm_head.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    dual.network.vision_head.weight.fill_(torch.inf)  # type: ignore[union-attr, operator]
    for action in (lambda: model.caption(pictures), lambda: dual.encode_image(pictures)):
        with pytest.raises(ValueError, match=r"hold NaN or infinity for 5 of 5 samples \((image|sample) 0, "):
            action()


def test_without_contrastive_heads_nothing_is_compared(model: PretrainedModel, pictures: list[bytes]) -> None:
    with pytest.raises(ValueError, match="tiny weights has no contrastive heads.*pretrain.contrast"):
        model.similarity(pictures, TEXTS)


def test_a_dual_encoder_writes_no_captions(dual: PretrainedModel, pictures: list[bytes]) -> None:
    with pytest.raises(ValueError, match="is a dual encoder, which has no head for words; caption by the weights"):
        dual.caption(pictures)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_captions_are_words_of_the_tokenizer(model: PretrainedModel, pictures: list[bytes], num_beams: int) -> None:
    rules = model.caption_rules(num_beams, 0.6, 8, 2)
    assert set(rules.never_ids) >= {0, 1, 3, model.tokenizer.mask_id, 119} and EOS_ID not in rules.never_ids
    assert isinstance(model.network, MaskedDataModel)
    ids = captions(model.network, model.inputs([*pictures]), rules).ids
    assert not torch.isin(ids[:, 1:3], torch.tensor([*rules.never_ids, EOS_ID])).any()
    found = model.caption(pictures, num_beams, max_length=8, min_words=2)
    assert found == [model.tokenizer.decode(row) for row in ids.tolist()] and all(found)


def test_without_a_tokenizer_images_are_encoded_and_texts_are_not(pictures: list[bytes]) -> None:
    model = PretrainedModel(tiny_opened(None), "cpu")
    assert len(model.encode_image(pictures)) == 5
    for call in (lambda: model.encode_text("a star"), lambda: model.caption(pictures)):
        with pytest.raises(ValueError, match="no text tokenizer lies beside tiny weights; put the one"):
            call()


def test_a_tokenizer_with_more_words_than_the_network_is_refused(tiny_data: TinyData) -> None:
    model = PretrainedModel(replace(tiny_opened(tiny_data), network=tiny_model(vocab_size=60)), "cpu")
    with pytest.raises(ValueError, match="the network 60 rows of words: it is the text tokenizer of other weights"):
        model.encode_text("a star")


def test_long_texts_are_refused_or_cut_as_in_training(model: PretrainedModel, tiny_data: TinyData) -> None:
    with pytest.raises(ValueError, match=f"text 1 has [0-9]+ tokens.*more than the {LENGTH} of training; shorten it"):
        model.encode_text(["a star", LONG])
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    ids = model.token_ids("text", [LONG], truncate=True)
    assert ids[0].tolist() == tokenizer.encode_to_length(LONG, LENGTH)
    assert model.encode_text(LONG, truncate=True).shape == (1, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_text(""), "text 0 '' has no token"),
        (lambda m: m.encode_image([]), "there is nothing to encode"),
        (lambda m: m.encode_image([np.zeros((8, 8, 3), np.uint8)]), "image 0 is of type ndarray; give an image of Pil"),
        (lambda m: m.encode_image(Image.new("RGB", (8, 8)), "avg"), "pool 'avg' must be one of"),
        (lambda m: m.encode_pair([Image.new("RGB", (8, 8))], TEXTS), "1 images and 3 texts are not pairs"),
        (lambda m: m.encode_image(torch.full((3, 8, 8), 2.0)), "give floating numbers from 0 to 1"),
        (lambda m: m.caption(Image.new("RGB", (8, 8)), max_length=13), "max_length 13 must be from 3 to 12"),
        (lambda m: m.caption(Image.new("RGB", (8, 8)), max_length=4, min_words=3), "min_words 3 must be from 0 to"),
        (lambda m: m.caption(Image.new("RGB", (8, 8)), num_beams=0), "num_beams 0 must be at least 1"),
        (lambda m: m.caption(Image.new("RGB", (8, 8)), length_penalty=math.nan), "length_penalty nan at least 0"),
        (lambda m: m.encode_image(Image.new("RGB", (8, 8)), "projected"), "no contrastive heads"),
    ],
)
def test_mistakes_are_one_sentence(model: PretrainedModel, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(model)


def test_half_precision_is_close_to_float32(tiny_data: TinyData, pictures: list[bytes]) -> None:
    exact = PretrainedModel(tiny_opened(tiny_data), "cpu").encode_image(pictures)
    half = PretrainedModel(tiny_opened(tiny_data), "cpu", "bfloat16").encode_image(pictures)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0.1)


def test_devices_and_precisions_that_there_are_not_are_refused() -> None:
    assert chosen_device("cpu") == torch.device("cpu") and chosen_dtype(torch.bfloat16) == torch.bfloat16
    with pytest.raises(ValueError, match="device gpu cannot be used here"):
        chosen_device("gpu")
    with pytest.raises(ValueError, match="precision float64 must be one of float32, bfloat16"):
        chosen_dtype("float64")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size 0"):
        PretrainedModel(tiny_opened(None), "cpu", batch_size=0)
