"""Guessed words of captions, compared with the network asked word by word. CPU, seconds."""

from pathlib import Path

import pytest
import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import pair_inputs
from pretrain.evaluation.masked_words import masked_words
from pretrain.reporting.caption_gallery import NO_WORD, caption_gallery, guess_caption
from tests.support.tiny_run import TinyData


def test_each_content_word_has_the_networks_guess(two_ranks: Path) -> None:
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    model, tokenizer = load_model(checkpoint), TextTokenizer(checkpoint.text_tokenizer)
    pixels = torch.rand(3, 48, 48) * 2 - 1
    caption = "a red circle above a red square"  # one word twice: the guesses may differ
    words = guess_caption(model, tokenizer, pixels, caption, 20)
    assert [word.truth for word in words] == caption.split()
    assert [word.is_hidden for word in words] == [False, True, True, True, False, True, True]
    hidden = [word for word in words if word.is_hidden]
    no_mask = torch.zeros(1, model.encoder.config.num_patches, dtype=torch.bool)
    for word, question in zip(hidden, masked_words(0, caption, tokenizer, 20), strict=True):
        with torch.no_grad():
            states = model.encode(pair_inputs(pixels[None], no_mask, torch.tensor([question.ids]))).captions
            guess = model.mlm_head(states[0, question.positions]).argmax(-1).tolist()
        assert word.guess == (tokenizer.decode(guess).strip() or NO_WORD)
        assert word.is_right == (guess == question.labels)


def test_words_beyond_the_captions_length_are_not_hidden(two_ranks: Path) -> None:
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    model, tokenizer = load_model(checkpoint), TextTokenizer(checkpoint.text_tokenizer)
    words = guess_caption(model, tokenizer, torch.zeros(3, 48, 48), " ".join(["red circle"] * 20), 8)
    is_hidden = [word.is_hidden for word in words]
    assert len(words) == 40 and is_hidden[0] and sum(is_hidden) < 8 and not any(is_hidden[8:])
    assert not any(word.is_hidden for word in guess_caption(model, tokenizer, torch.zeros(3, 48, 48), "on the", 8))


def test_each_caption_is_shown_with_its_own_image_and_another(two_ranks: Path, tiny_data: TinyData) -> None:
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    model = load_model(checkpoint)
    shown = caption_gallery(checkpoint, model, tiny_data.folder / "pairs", 3)
    assert len(shown) == 3 and all(caption.right.image != caption.wrong.image for caption in shown)
    assert [" ".join(word.truth for word in caption.wrong.words) for caption in shown] == [c.text for c in shown]
    with pytest.raises(ValueError, match="kind 'image', not 'pair'"):
        caption_gallery(checkpoint, model, tiny_data.folder / "images", 3)
