"""Held-out captions with each content word hidden in turn and guessed, with its own image and with another."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.texts.tokenizer import TextTokenizer
from model.masked_data_model import MaskedDataModel
from pretrain.checkpoints.reader import Checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import pair_inputs, read_held_out
from pretrain.evaluation.masked_words import masked_words
from pretrain.jobs.visual_tokens import network_view
from pretrain.reporting.embedded import data_uri

NO_WORD = "?"
"""Stands for a guess without characters, such as a special token."""


@dataclass(frozen=True)
class Word:
    """A word of a caption."""

    truth: str
    guess: str = ""
    """The network's guess if the word was hidden."""
    is_right: bool = False

    @property
    def is_hidden(self) -> bool:
        return bool(self.guess)


@dataclass(frozen=True)
class CaptionWithImage:
    """A caption and its guessed words beside one image, a data URI."""

    image: str
    words: list[Word]


@dataclass(frozen=True)
class ShownCaption:
    """One caption with its own image and with that of another pair."""

    text: str
    right: CaptionWithImage
    wrong: CaptionWithImage


def caption_gallery(
    checkpoint: Checkpoint[PretrainConfig], model: MaskedDataModel, held_out: Path, num_captions: int
) -> list[ShownCaption]:
    """Return the first held-out captions with the network's guesses; the other image is that of a later pair.

    Raises ValueError if the shards hold no pairs.
    """
    config, tokenizer = checkpoint.config, TextTokenizer(checkpoint.text_tokenizer)
    images, captions = read_held_out(held_out, config.data, config.model.image_size, 2 * num_captions, ("pair",))
    if len(images) < 2:
        raise ValueError(f"{held_out} holds only one pair; a caption is also shown with the image of another")
    pixels, length = network_view(images, config.model.image_size), config.data.caption_length
    shown = []
    for pair in range(min(num_captions, len(images))):
        places = (pair, (pair + len(images) // 2) % len(images))
        versions = [
            CaptionWithImage(
                data_uri(images[place]), guess_caption(model, tokenizer, pixels[place], captions[pair], length)
            )
            for place in places
        ]
        shown.append(ShownCaption(captions[pair], *versions))
    return shown


@torch.no_grad()
def guess_caption(
    model: MaskedDataModel, tokenizer: TextTokenizer, pixels: Tensor, caption: str, length: int
) -> list[Word]:
    """Return the words of a caption, each content word hidden in turn and guessed, with the image whole.

    pixels: (3, H, W) as the network takes them; length: number of ids in a caption.
    """
    words = [Word(word) for word in caption.split()]
    questions = masked_words(0, caption, tokenizer, length)
    if not questions:
        return words
    ids = torch.tensor([question.ids for question in questions])
    mask = torch.zeros(len(questions), model.encoder.config.num_patches, dtype=torch.bool)
    states = model.encode(pair_inputs(pixels.expand(len(questions), -1, -1, -1), mask, ids)).captions
    place = 0
    for row, question in enumerate(questions):  # in the order of the words, of which some have no question
        while re.sub(r"\W", "", words[place].truth).lower() != question.word:
            place += 1
        guessed = model.mlm_head(states[row, question.positions]).argmax(-1).tolist()
        text = tokenizer.decode(guessed).strip() or NO_WORD
        words[place] = Word(words[place].truth, text, guessed == question.labels)
        place += 1
    return words
