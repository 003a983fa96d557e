"""Features of a dual encoder chunk by chunk, compared with one forward. CPU, seconds."""

import pytest
import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import DualHeads
from pretrain.evaluation.chunks import NotFiniteError, Ranks
from pretrain.evaluation.dual_features import FeatureReader, FeatureSettings, text_inputs
from pretrain.evaluation.held_out import image_inputs
from tests.support.tiny import CONFIG, tiny_dual_encoder
from tests.support.tiny_run import TinyData

TEXTS = ["a red circle", "on white there is a star", "a red circle", "\u200b", "a cross is left of a big blue square"]


class Images:
    """Seven images of random pixels, of which the third cannot be read."""

    pixels = torch.randint(256, (7, 3, CONFIG.image_size, CONFIG.image_size), dtype=torch.uint8)

    def images(self, places: range) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[places.start : places.stop], torch.tensor([float(place != 2) for place in places])


@pytest.fixture
def settings(tiny_data: TinyData) -> FeatureSettings:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    device = torch.device("cpu")
    return FeatureSettings(CONFIG.image_size, CONFIG.patch_size, tokenizer, 12, 3, torch.float32, device)


def test_features_are_those_of_one_forward(settings: FeatureSettings) -> None:
    network = tiny_dual_encoder(vocab_size=settings.tokenizer.vocab_size)
    reader = FeatureReader(network, settings, Ranks())
    images, texts = reader.of_images(Images(), 7), reader.of_texts(TEXTS)
    assert images.is_good.tolist() == [place != 2 for place in range(7)]
    assert texts.is_good.tolist() == [text != "\u200b" for text in TEXTS]  # a text without a token
    pixels = Images.pixels.float() / 255 * 2 - 1
    ids = torch.tensor([settings.tokenizer.encode_to_length(text, 12) for text in TEXTS])
    shown = torch.zeros(7, CONFIG.num_patches, dtype=torch.bool)
    torch.testing.assert_close(images.rows, network.features(image_inputs(pixels, shown)).images)
    torch.testing.assert_close(texts.rows, network.features(text_inputs(ids, settings)).texts)
    assert torch.equal(texts.rows[0], texts.rows[2])  # to the bit, although they are in different chunks
    assert images.logit_scale == network.logit_scale and images.logit_bias.isnan()


def test_features_that_are_not_finite_are_refused_by_name(settings: FeatureSettings) -> None:
    network = tiny_dual_encoder(vocab_size=settings.tokenizer.vocab_size)
    with torch.no_grad():
        network.language_head.weight[0, 0] = torch.nan
    reader = FeatureReader(network, settings, Ranks())
    assert reader.of_images(Images(), 7).rows.isfinite().all()
    with pytest.raises(NotFiniteError, match=rf"\(text '{TEXTS[0]}', "):
        reader.of_texts(TEXTS)
    with torch.no_grad():
        network.vision_head.weight[0, 0] = torch.inf
    with pytest.raises(NotFiniteError, match=r"for 7 of 7 samples \(dog-0, dog-1, dog-2, ...\)"):
        reader.of_images(Images(), 7, "dog-{}".format)


def test_the_bias_of_a_sigmoid_loss_is_found(settings: FeatureSettings) -> None:
    network = tiny_dual_encoder(DualHeads(logit_bias=True), vocab_size=settings.tokenizer.vocab_size)
    assert network.logit_bias is not None
    with torch.no_grad():
        network.logit_bias.fill_(-7)
    assert FeatureReader(network, settings, Ranks()).of_texts(["a red circle"]).logit_bias == -7


def test_pixels_are_normalized_as_the_weights_expect(settings: FeatureSettings) -> None:
    other = FeatureSettings(**(vars(settings) | {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0)}))
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert other.pixels(white)[0, :, 0, 0].tolist() == pytest.approx([1.8, 3.2, 0.7])
    assert settings.pixels(white)[0, :, 0, 0].tolist() == [1, 1, 1]
