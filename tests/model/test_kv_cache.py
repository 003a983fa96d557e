"""Keys and values of earlier tokens. CPU, seconds."""

import pytest
import torch

from model.captioner import prefill
from model.kv_cache import KeyValueCache, LayerCache
from tests.support.tiny import tiny_model


def test_a_layer_keeps_what_it_was_given_in_order() -> None:
    layer = LayerCache()
    first, second = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 4, 5)
    assert layer.num_tokens == 0
    layer.extend(first, first + 1)
    keys, values = layer.extend(second, second + 1)
    assert layer.num_tokens == 5
    assert torch.equal(keys, torch.cat([first, second], 1)) and torch.equal(values, keys + 1)
    layer.drop_last(3)
    keys, _ = layer.extend(second, second)
    assert torch.equal(keys, torch.cat([first[:, :2], second], 1))


def test_dropped_tokens_leave_every_layer_and_the_image_stays() -> None:
    cache = KeyValueCache(2)
    for layer in cache.layers:
        layer.extend(torch.zeros(1, 7, 1, 1), torch.zeros(1, 7, 1, 1))
    cache.num_caption_tokens = 2
    cache.drop_last(1)
    assert cache.num_tokens == 6 and [layer.num_tokens for layer in cache.layers] == [6, 6]
    with pytest.raises(AssertionError):
        cache.drop_last(2)  # one is the image's


def test_beams_decode_as_captions_of_their_own_and_continue_from_others() -> None:
    model, images = tiny_model(), torch.randn(2, 3, 32, 32)
    ids = torch.randint(4, 49, (2, 3, 4))  # (pairs, times, beams)
    parents = torch.tensor([[3, 0, 0, 1], [2, 2, 1, 3]])
    more = torch.randint(4, 49, (2, 2, 4))
    cache = prefill(model, images, num_beams=4)
    model.encoder.decode(ids, cache)
    cache.reorder_beams(parents)
    found = model.encoder.decode(more, cache)
    inherited = ids.take_along_dim(parents[:, None], dim=2)
    for beam in range(4):
        alone = prefill(model, images)
        model.encoder.decode(inherited[..., beam], alone)
        expected = model.encoder.decode(more[..., beam], alone)
        torch.testing.assert_close(found[:, :, beam], expected, atol=1e-5, rtol=0)
