"""Features against the states that they are taken from. CPU, seconds."""

from typing import Any

import pytest
import torch

from data_pipeline.samples.sample import Kind
from model.config import CaptionHead, ClassHead, DualHeads, Nlvr2Head, TaskHead, VqaHead
from model.multiway import MultiwayInputs
from pretrain.inference.features import choose_features, features, inputs_of, pooled, words_of
from pretrain.inference.options import Pool
from tests.support.opened import SIZE
from tests.support.tiny import CONFIG, tiny_dual_encoder, tiny_model, tiny_task_network

IDS = torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1], [0, 4, 8, 2, 1]])
D, V, L = CONFIG.dim, CONFIG.num_image_tokens, IDS.shape[1]
SHAPES: dict[tuple[Kind, Pool], tuple[int, ...]] = {
    ("image", "class"): (D,),
    ("image", "mean"): (D,),
    ("image", "tokens"): (V, D),
    ("image", "map"): (D, 4, 4),
    ("text", "class"): (D,),
    ("text", "mean"): (D,),
    ("text", "tokens"): (L, D),
    ("pair", "class"): (D,),
    ("pair", "mean"): (D,),
    ("pair", "tokens"): (V + L, D),
    ("pair", "map"): (D, 4, 4),
}


def inputs(kind: Kind) -> MultiwayInputs:
    pixels = None if kind == "text" else torch.randn(3, 3, SIZE, SIZE)
    return inputs_of(kind, tiny_model(), pixels, None if kind == "image" else IDS)


@pytest.mark.parametrize(("kind", "pool"), SHAPES)
def test_features_have_the_documented_shape_with_a_dimension_for_layers(kind: Kind, pool: Pool) -> None:
    network = tiny_model()
    found = features(network, inputs(kind), kind, choose_features(network, kind, pool))
    assert found.shape == (3, *SHAPES[kind, pool]) and found.dtype == torch.float32
    of_layers = features(network, inputs(kind), kind, choose_features(network, kind, pool, (3, 1)))
    assert of_layers.shape == (3, 2, *SHAPES[kind, pool])
    assert not of_layers.requires_grad


def test_a_mean_is_of_patches_and_of_words_alone() -> None:
    network = tiny_model()
    for kind in ("image", "text", "pair"):
        given = inputs(kind)
        states = network.encoder(given)
        found = pooled(states, given, kind, "mean")
        for sample in range(3):
            patches = states.images[sample, 1:] if kind != "text" else torch.zeros(0, D)
            words = (states.captions if kind == "pair" else states.texts)[sample] if kind != "image" else None
            num_words = [3, 1, 2][sample]
            rows = torch.cat([patches, *([] if words is None else [words[1 : 1 + num_words]])])
            torch.testing.assert_close(found[sample], rows.mean(0))
    assert words_of(IDS == 1).sum(1).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("heads", "kinds"),
    [(VqaHead(7), {"pair"}), (Nlvr2Head(), {"pair"}), (CaptionHead(), set()), (ClassHead(5), {"image"})],
    ids=str,
)
def test_a_finetuned_network_has_features_of_what_it_was_trained_on_alone(heads: TaskHead, kinds: set[Kind]) -> None:
    network = tiny_task_network(heads)
    for kind in ("image", "text", "pair"):
        if kind in kinds:
            found = features(network, inputs(kind), kind, choose_features(network, kind))
            assert found.shape == (3, D)
            continue
        with pytest.raises(ValueError, match=f"a network of {heads.TASK} is not trained on samples of kind {kind}"):
            choose_features(network, kind)


def test_a_map_has_the_patches_in_their_places() -> None:
    network, given = tiny_model(), inputs("image")
    states = network.encoder(given)
    found = features(network, given, "image", choose_features(network, "image", "map"))
    torch.testing.assert_close(found[1, :, 2, 3], states.images[1, 1 + 2 * 4 + 3])


def test_layers_come_in_the_order_in_which_they_are_asked_for() -> None:
    network, given = tiny_model(), inputs("image")
    both = features(network, given, "image", choose_features(network, "image", "class", (3, 1)))
    for place, layer in enumerate((3, 1)):
        one = features(network, given, "image", choose_features(network, "image", "class", (layer,)))
        assert torch.equal(one[:, 0], both[:, place])
    assert not torch.allclose(both[:, 0], both[:, 1], atol=1e-2)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_projected_features_are_those_of_the_heads(kind: Kind) -> None:
    network, given = tiny_dual_encoder(), inputs(kind)
    found = features(network, given, kind, choose_features(network, kind))
    states = network.encoder(given)
    token, head = (states.images, network.vision_head) if kind == "image" else (states.texts, network.language_head)
    expected = torch.nn.functional.normalize(head(token[:, 0]), dim=1)
    torch.testing.assert_close(found, expected)


def test_the_default_is_projected_if_the_network_can_else_the_mean() -> None:
    dual, masked = tiny_dual_encoder(), tiny_model()
    assert choose_features(dual, "image").pool == choose_features(dual, "text").pool == "projected"
    assert {choose_features(masked, "pair").pool, choose_features(dual, "text", None, (1,)).pool} == {"mean"}
    assert choose_features(masked, "image").pool == "mean"


def test_a_dual_encoder_that_went_on_with_masked_pairs_has_features_of_pairs() -> None:
    dual = tiny_dual_encoder(DualHeads(masked_data=True))
    assert choose_features(dual, "pair").pool == "mean"
    with pytest.raises(ValueError, match="do not project pairs"):
        choose_features(dual, "pair", "projected")


@pytest.mark.parametrize(
    ("is_dual", "kind", "changes", "message"),
    [
        (False, "image", {"pool": "projected"}, "no contrastive heads; train them with python -m pretrain.contrast"),
        (True, "pair", {}, "a dual encoder is not trained on pairs; encode their images and texts"),
        (False, "image", {"pool": "cls"}, "pool 'cls' must be one of projected, class, mean, tokens, map"),
        (True, "image", {"pool": "projected", "layers": (1,)}, "do not project layers"),
        (False, "text", {"pool": "map"}, "a text has no map"),
        (False, "image", {"layers": (0,)}, "layer 0 is not a block of this network; give numbers from 1 to 3"),
        (False, "image", {"layers": (1, 4)}, "layer 4 is not a block"),
    ],
)
def test_features_that_there_are_none_of_are_refused(
    is_dual: bool, kind: Kind, changes: dict[str, Any], message: str
) -> None:
    network = tiny_dual_encoder() if is_dual else tiny_model()
    with pytest.raises(ValueError, match=message):
        choose_features(network, kind, **changes)


@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_a_sample_gives_the_same_beside_others_and_longer_texts(kind: Kind) -> None:
    network, given = tiny_model(), inputs(kind)
    choice = choose_features(network, kind, "mean")
    together = features(network, given, kind, choice)
    pixels = given.images[1:2] if kind != "text" else None
    alone = inputs_of(kind, network, pixels, None if kind == "image" else IDS[1:2, :3])
    torch.testing.assert_close(features(network, alone, kind, choice)[0], together[1], atol=2e-6, rtol=0)
