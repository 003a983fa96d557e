"""Masked words in a run: a fixed selection of the questions of `pretrain.masked_words`, with whole images.

Every caption has one question per content word; the selection is spread evenly over all of them. A wrong image is that
of the pair half the folder away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.evaluation import Figures, Network, ratio
from pretrain.evaluation.held_out import forward_of
from pretrain.evaluation.labelled import spread
from pretrain.evaluation.masked_words import (
    MaskedWord,
    commonest_share,
    guess_chunk,
    questions_of,
    wrong_image_shift,
)
from pretrain.evaluation.samples import HeldOut
from pretrain.jobs.visual_tokens import network_view


@dataclass(frozen=True)
class Words:
    """Accuracy of hidden words with the right image, with a wrong one, and of the commonest word."""

    config: PretrainConfig
    pairs: HeldOut
    questions: list[MaskedWord]
    device: torch.device

    names = ("words/acc_right_image", "words/acc_wrong_image", "words/acc_commonest", "words/nll_right_image")

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        """Return the figures. All ranks call it."""
        forward, num_pairs = forward_of(network), self.pairs.num_samples

        def compute(places: range) -> Tensor:
            chunk = self.questions[places.start : places.stop]
            columns = []
            for shift in (0, wrong_image_shift(num_pairs)):
                shown = [(question.pair + shift) % num_pairs for question in chunk]
                images, is_good = self.pairs.images(shown)
                pixels = network_view(images.to(self.device), self.config.model.image_size).to(self.config.dtype)
                whole = torch.zeros(len(chunk), self.config.model.num_patches, dtype=torch.bool)
                guesses = guess_chunk(forward, pixels, whole, chunk)
                weight = is_good[:, None].to(self.device)
                columns += [guesses * weight, (guesses[:, 1:2] == guesses[:, 2:]) * weight, weight]
            return torch.cat(columns, 1)

        num_questions, chunk_size = len(self.questions), self.config.evaluation.chunk_size
        rows = ranks.by_place(num_questions, chunk_size, compute, self.device, self._name).double()
        right, wrong = rows.split(5, 1)  # (Q, 5): nll, tokens guessed, tokens, is right, weight
        sums, of_wrong = right.sum(0), wrong.sum(0)
        asked = [question.word for question, row in zip(self.questions, right, strict=True) if row[4]]
        return {
            "words/acc_right_image": ratio(sums[3], sums[4]),
            "words/acc_wrong_image": ratio(of_wrong[3], of_wrong[4]),
            "words/acc_commonest": commonest_share(asked) if asked else float("nan"),
            "words/nll_right_image": ratio(sums[0], sums[2]),
        }

    def _name(self, place: int) -> str:
        question = self.questions[place]
        return f"{question.word!r} of {self.pairs.name(question.pair)}"


def choose_words(config: PretrainConfig, pairs: HeldOut, device: torch.device) -> Words:
    """Return the words to guess. Raises ValueError if there are none, or only one pair."""
    assert pairs.tokenizer is not None
    questions, num_unknown = questions_of(pairs.texts(), pairs.tokenizer, config.data.caption_length)
    if pairs.num_samples < 2 or not questions:
        unknown = f"; {num_unknown} words hold characters that the text tokenizer does not know" * (num_unknown > 0)
        raise ValueError(
            f"evaluation.pairs {pairs.folder} has no two pairs with content words that fit data.caption_length"
            f"{unknown}; give other pairs, or leave words out of evaluation.parts"
        )
    chosen = spread(len(questions), config.evaluation.num_words)
    return Words(config, pairs, [questions[place] for place in chosen], device)
