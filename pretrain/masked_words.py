"""Does the network read the image? python -m pretrain.masked_words RUN PAIRS

One content word of a held-out caption is hidden at a time and guessed with the right image, with the image of another
pair, and by always naming the commonest content word of the captions. Only the image can tell the first two apart.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from data_pipeline.command_line import run_command
from data_pipeline.text_tokenizer import BOS_ID, EOS_ID, PAD_ID, TextTokenizer
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from pretrain.held_out import read_held_out
from pretrain.visual_tokens import network_view
from pretrain.weights import find_checkpoint, load_model
from settings.ranges import Count, check_ranges

FUNCTION_WORDS = frozenset(
    """a an the this that which who it its there is are was were be of on at in to with for from by as and or""".split()
)
CHUNK = 128


@dataclass(frozen=True)
class MaskedWordsOptions:
    """Accuracy of guessing masked caption words with the right image, a wrong image, and the commonest word."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, whose newest checkpoint is taken, or one checkpoint folder."""
    pairs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PAIRS")]
    """Shards of held-out pairs."""
    max_pairs: Count = 1000
    """Pairs to evaluate, the first of the shards."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class MaskedWordsResult:
    """Accuracies over all content words, 0..1, and the mean negative log likelihood of a token in nats."""

    num_words: int
    right_image: float
    wrong_image: float
    commonest: float
    right_image_nll: float
    wrong_image_nll: float


@dataclass(frozen=True)
class MaskedWord:
    """One question: a caption with all tokens of one word hidden."""

    pair: int
    word: str
    ids: list[int]
    positions: list[int]
    labels: list[int]


def main() -> None:
    run_command(MaskedWordsOptions, "pretrain.masked_words", _evaluate)


def _evaluate(options: MaskedWordsOptions) -> str:
    result = evaluate_masked_words(options)
    return (
        f"words={result.num_words} acc_right_image={result.right_image:.3f} acc_wrong_image={result.wrong_image:.3f} "
        f"acc_commonest={result.commonest:.3f} nll_right_image={result.right_image_nll:.3f} "
        f"nll_wrong_image={result.wrong_image_nll:.3f}"
    )


def evaluate_masked_words(options: MaskedWordsOptions) -> MaskedWordsResult:
    """Evaluate a checkpoint. Raises ValueError where it, the shards or their content words are missing."""
    checkpoint = find_checkpoint(options.source)
    model, config = load_model(checkpoint), checkpoint.config
    tokenizer = TextTokenizer(checkpoint.text_tokenizer)
    images, captions = read_held_out(options.pairs, config.data, config.model.image_size, options.max_pairs)
    questions = [
        question
        for pair, caption in enumerate(captions)
        for question in masked_words(pair, caption, tokenizer, config.data.caption_length)
    ]
    if len(images) < 2 or not questions:
        raise ValueError(f"{options.pairs} has no two pairs with content words that fit caption_length")
    pixels = network_view(images, config.model.image_size)
    # half the pairs away: a fixed, other image for every caption
    right, right_nll = _guess(model, pixels, questions, shift=0)
    wrong, wrong_nll = _guess(model, pixels, questions, shift=len(images) // 2)
    commonest_count = Counter(question.word for question in questions).most_common(1)[0][1]
    return MaskedWordsResult(len(questions), right, wrong, commonest_count / len(questions), right_nll, wrong_nll)


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
def _guess(model: MaskedDataModel, pixels: Tensor, questions: list[MaskedWord], shift: int) -> tuple[float, float]:
    """Share of words of which every token is guessed, and the mean negative log likelihood of a token."""
    num_right, nll_sum, num_tokens = 0, 0.0, 0
    for start in range(0, len(questions), CHUNK):
        chunk = questions[start : start + CHUNK]
        ids = torch.tensor([question.ids for question in chunk])
        inputs = MultiwayInputs(
            images=pixels[[(question.pair + shift) % len(pixels) for question in chunk]],
            image_mask=torch.zeros(len(chunk), model.encoder.config.num_patches, dtype=torch.bool),
            caption_ids=ids,
            caption_padding=ids == PAD_ID,
            text_ids=ids.new_zeros(0, 1),
            text_padding=torch.zeros(0, 1, dtype=torch.bool),
        )
        states = model.encode(inputs).captions
        for i, question in enumerate(chunk):
            log_probabilities = model.mlm_head(states[i, question.positions]).log_softmax(-1)  # (tokens, vocab)
            labels = torch.tensor(question.labels)
            num_right += bool((log_probabilities.argmax(-1) == labels).all())
            nll_sum -= float(log_probabilities.gather(1, labels[:, None]).sum())
            num_tokens += len(labels)
    return num_right / len(questions), nll_sum / num_tokens


if __name__ == "__main__":
    main()
