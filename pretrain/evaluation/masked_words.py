"""Masked words of held-out captions: does the network read the image?

One content word of a caption is hidden at a time and guessed with the right image, with the image of another pair, and
by always naming the commonest content word of the captions. Only the image makes a difference between the first two.
Images are shown whole, as they are in use, and then with as many patches hidden as in training. A network that is
better at the latter uses whole images less well than it could, and no loss shows that (docs/whole_images.md).
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.settings.command_line import progress_bar
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, TextTokenizer
from model.masked_data_model import MaskedDataModel
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import check_finite
from pretrain.evaluation.held_out import (
    Forward,
    forward_of,
    pair_inputs,
    read_held_out,
    targets_of,
    training_masks,
)
from pretrain.evaluation.options import MaskedWordsOptions
from pretrain.jobs.visual_tokens import network_view
from pretrain.survival.console import warn

FUNCTION_WORDS = frozenset(
    """a an the this that which who it its there is are was were be of on at in to with for from by as and or""".split()
)
CHUNK = 128
SURE_DEVIATIONS = 3.0
"""Number of standard deviations beyond which a difference is not attributed to chance."""


@dataclass(frozen=True, eq=False)
class Guesses:
    """Guesses of all Q masked words, with the images shown in one way."""

    is_right: Tensor
    """(Q,) bool, whether every token of the word was guessed."""
    nll: float
    """Mean negative log likelihood per token, in nats."""

    @property
    def accuracy(self) -> float:
        return float(self.is_right.float().mean())


@dataclass(frozen=True, eq=False)
class MaskedWordsResult:
    """Guesses of all content words, for each way to show the images."""

    num_words: int
    num_unknown_words: int
    """Content words left out because the tokenizer does not know all of their characters: <unk> stands for any of them,
    so that guessing it would count as right."""
    commonest: float
    """Accuracy of always naming the commonest word, 0..1."""
    right_image: Guesses
    """The image of the caption, whole."""
    wrong_image: Guesses
    """The image of another pair, whole."""
    num_masked_patches: int
    """Patches hidden in each image for the two below: as many as in training."""
    right_masked: Guesses
    wrong_masked: Guesses

    @property
    def is_worse_with_whole_images(self) -> bool:
        """Whether hiding patches makes more words right than wrong, beyond chance.

        A sign test, which assumes that words are independent.
        """
        whole, masked = self.right_image.is_right, self.right_masked.is_right
        gained, lost = int((masked & ~whole).sum()), int((whole & ~masked).sum())
        return gained - lost > SURE_DEVIATIONS * math.sqrt(gained + lost)


@dataclass(frozen=True)
class MaskedWord:
    """One question: a caption with all tokens of one word hidden."""

    pair: int
    word: str
    ids: list[int]
    positions: list[int]
    labels: list[int]


def report(result: MaskedWordsResult) -> str:
    """Return the figures in one line. Warns if whole images are worse than masked ones."""
    if result.is_worse_with_whole_images:
        warn(
            f"warning: {result.right_masked.accuracy:.1%} of the words are guessed with {result.num_masked_patches} "
            f"patches of each image hidden, as in training, and only {result.right_image.accuracy:.1%} with whole "
            "images, which is how the network is used; train with a larger --objective.whole-image-share "
            "(docs/whole_images.md)"
        )
    shown = {
        "right_image": result.right_image,
        "wrong_image": result.wrong_image,
        "right_masked": result.right_masked,
        "wrong_masked": result.wrong_masked,
    }
    accuracies = [f"acc_{name}={guesses.accuracy:.3f}" for name, guesses in shown.items()]
    nlls = [f"nll_{name}={guesses.nll:.3f}" for name, guesses in shown.items()]
    counts = [f"words={result.num_words}", f"unknown_words={result.num_unknown_words}"]
    mask = [f"masked_patches={result.num_masked_patches}"]
    return " ".join([*counts, *accuracies[:2], f"acc_commonest={result.commonest:.3f}", *mask, *accuracies[2:], *nlls])


def evaluate_masked_words(options: MaskedWordsOptions) -> MaskedWordsResult:
    """Evaluate a checkpoint. Raises ValueError if it, the shards or their content words are missing."""
    checkpoint = find_checkpoint(options.source, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    tokenizer = TextTokenizer(checkpoint.text_tokenizer)
    images, captions = read_held_out(options.pairs, config.data, config.model.image_size, options.max_pairs, ("pair",))
    questions, num_unknown = questions_of(captions, tokenizer, config.data.caption_length)
    if len(images) < 2 or not questions:
        unknown = f"; {num_unknown} words hold characters that its text tokenizer does not know" * (num_unknown > 0)
        raise ValueError(f"{options.pairs} has no two pairs with content words that fit caption_length{unknown}")
    pixels = network_view(images, config.model.image_size)
    masks = training_masks(config, len(images))
    other = wrong_image_shift(len(images))
    with progress_bar("words", 4 * len(questions)) as progress:
        right, wrong, right_masked, wrong_masked = (
            guess_words(model, pixels, mask, questions, shift, progress.update)
            for mask in (torch.zeros_like(masks), masks)
            for shift in (0, other)
        )
    return MaskedWordsResult(
        num_words=len(questions),
        num_unknown_words=num_unknown,
        commonest=commonest_share([question.word for question in questions]),
        right_image=right,
        wrong_image=wrong,
        num_masked_patches=config.num_masked_patches,
        right_masked=right_masked,
        wrong_masked=wrong_masked,
    )


def questions_of(captions: Sequence[str], tokenizer: TextTokenizer, length: int) -> tuple[list[MaskedWord], int]:
    """Return a question for each content word of the captions, and the number of words left out because the tokenizer
    does not know all of their characters. length: in ids, of the longest caption."""
    words = [word for pair, caption in enumerate(captions) for word in masked_words(pair, caption, tokenizer, length)]
    # a mask over <unk> is a question whose answer says nothing about the image
    questions = [word for word in words if UNK_ID not in word.labels]
    return questions, len(words) - len(questions)


def wrong_image_shift(num_pairs: int) -> int:
    """Return how many pairs away the wrong image of a caption is: half of them, a fixed, other image for each."""
    return num_pairs // 2


def commonest_share(words: Sequence[str]) -> float:
    """Return the share of the commonest word."""
    return Counter(words).most_common(1)[0][1] / len(words)


def masked_words(pair: int, caption: str, tokenizer: TextTokenizer, length: int) -> list[MaskedWord]:
    """One question per content word of a caption; words beyond `length` ids are left out."""
    words = caption.split()
    pieces = [tokenizer.encode(word) for word in words]
    ids = [BOS_ID, *itertools.chain.from_iterable(pieces)][: length - 1]
    ids.append(EOS_ID)
    questions, start = [], 1
    for word, word_pieces in zip(words, pieces, strict=True):
        positions = list(range(start, start + len(word_pieces)))
        start += len(word_pieces)
        bare = re.sub(r"\W", "", word).lower()
        if not bare or bare in FUNCTION_WORDS or start > length - 1:
            continue
        hidden = [tokenizer.mask_id if i in positions else piece for i, piece in enumerate(ids)]
        hidden += [PAD_ID] * (length - len(hidden))
        questions.append(MaskedWord(pair, bare, hidden, positions, word_pieces))
    return questions


@torch.no_grad()
def guess_words(
    model: MaskedDataModel,
    pixels: Tensor,
    masks: Tensor,
    questions: list[MaskedWord],
    shift: int,
    progress: Callable[[int], object],
) -> Guesses:
    """Guess hidden words.

    pixels: (P, 3, H, W) as the network takes them; masks: (P, patches) bool, True = hidden; shift: the caption of pair
    p is shown with the image p + shift; progress: called with the number of words guessed. Raises NotFiniteError.
    """
    forward, found = forward_of(model), []
    for start in range(0, len(questions), CHUNK):
        chunk = questions[start : start + CHUNK]
        shown = torch.tensor([(question.pair + shift) % len(pixels) for question in chunk])
        found.append(guess_chunk(forward, pixels[shown], masks[shown], chunk))
        progress(len(chunk))
    rows = torch.cat(found)
    check_finite(rows, lambda place: f"{questions[place].word!r} of pair {questions[place].pair}")
    nll, num_right, num_tokens = rows.T
    return Guesses(num_right == num_tokens, float(nll.double().sum() / num_tokens.sum()))


def guess_chunk(forward: Forward, pixels: Tensor, masks: Tensor, questions: list[MaskedWord]) -> Tensor:
    """Guess the hidden words of Q captions with an image each.

    pixels: (Q, 3, H, W) as the network takes them; masks: (Q, patches) bool, True = hidden. Returns (Q, 3): the
    negative log likelihood of the word's tokens in nats, the number of tokens guessed, and their number.
    """
    inputs = pair_inputs(pixels, masks, torch.tensor([question.ids for question in questions]))
    words = [question.positions for question in questions], [question.labels for question in questions]
    return forward(inputs, targets_of(inputs, words=words)).captions
