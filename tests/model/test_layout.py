"""The order of the packed rows. CPU, seconds."""

import pytest
import torch

from model.layout import SHARED, THREE_EXPERTS, TWO_EXPERTS, PackedLayout, packed_layout, unpadded_texts

CAPTIONS, TEXTS = (2, 0, 3), (1, 4)
IMAGE_TOKENS, NUM_IMAGES = 5, 2


def padding(lengths: tuple[int, ...], num_positions: int = 4) -> torch.Tensor:
    return torch.arange(num_positions) >= torch.tensor(lengths)[:, None]


def layout() -> PackedLayout:
    captions, texts = unpadded_texts(padding(CAPTIONS), CAPTIONS), unpadded_texts(padding(TEXTS), TEXTS)
    return packed_layout(NUM_IMAGES, IMAGE_TOKENS, captions, texts)


def test_every_expert_has_the_rows_of_its_modality() -> None:
    packed = layout()
    images, pair_images, captions, texts = 10, 25, 30, 35
    assert packed.num_rows == texts
    assert packed.rows(SHARED).slices() == [slice(0, texts)]
    assert packed.rows(TWO_EXPERTS).slices() == [slice(0, pair_images), slice(pair_images, texts)]
    assert packed.rows(THREE_EXPERTS).slices() == [
        slice(0, images), slice(images, captions), slice(captions, texts)
    ]  # fmt: skip


def test_pairs_put_each_caption_after_its_image() -> None:
    packed = layout()
    pair_of_row = packed.sample_of_row()[10:30] - NUM_IMAGES
    assert torch.equal(pair_of_row[packed.pair_order], torch.tensor([0] * 7 + [1] * 5 + [2] * 8))
    assert packed.pair_order[:7].tolist() == [0, 1, 2, 3, 4, 15, 16]
    assert torch.equal(packed.pair_order[packed.inverse_pair_order], torch.arange(20))
    assert packed.pairs.lengths == (7, 5, 8) and packed.pairs.cu_seqlens.tolist() == [0, 7, 12, 20]


def test_a_row_belongs_to_its_sample() -> None:
    expected = [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5 + [2] * 2 + [4] * 3 + [5] + [6] * 4
    assert layout().sample_of_row().tolist() == expected


def test_words_have_the_positions_and_cumulative_lengths_of_captions_and_texts() -> None:
    positions, cu_seqlens = layout().word_positions()
    assert positions.tolist() == [0, 1, 0, 1, 2, 0, 0, 1, 2, 3]
    assert cu_seqlens.tolist() == [0, 2, 2, 5, 6, 10] and cu_seqlens.dtype == torch.int32


@pytest.mark.parametrize("lengths", [(2, 0, 3), (4, 4), (0,), ()], ids=str)
def test_unpad_takes_the_tokens_and_pad_puts_them_back(lengths: tuple[int, ...]) -> None:
    texts = unpadded_texts(padding(lengths).view(len(lengths), 4), None)
    assert texts.lengths == lengths and texts.max_seqlen == max(lengths, default=0)
    assert texts.have_equal_lengths == (lengths != (2, 0, 3))
    values = torch.randn(len(lengths), 4, 3)
    unpadded = texts.unpad(values)
    assert len(unpadded) == texts.num_rows == sum(lengths)
    is_padding = padding(lengths).view(len(lengths), 4)
    assert torch.equal(texts.pad(unpadded, 4), values.masked_fill(is_padding[..., None], 0))
