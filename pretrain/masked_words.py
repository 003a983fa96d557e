"""Does the network read the image? python -m pretrain.masked_words RUN PAIRS

One content word of a held-out caption is hidden at a time and guessed with the right image, with the image of another
pair, and by always naming the commonest content word of the captions. Only the image can tell the first two apart.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from data_pipeline.command_line import progress_bar, run_command
from data_pipeline.settings.ranges import Count, check_ranges
from data_pipeline.text_tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, TextTokenizer
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from pretrain.held_out import read_held_out
from pretrain.visual_tokens import network_view
from pretrain.weights import find_checkpoint, load_model

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
    num_unknown_words: int
    """Content words that were left out, since the tokenizer does not know all of their characters: <unk> stands for
    any of them, and to guess it would count as right."""
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
        f"words={result.num_words} unknown_words={result.num_unknown_words} "
        f"acc_right_image={result.right_image:.3f} acc_wrong_image={result.wrong_image:.3f} "
        f"acc_commonest={result.commonest:.3f} nll_right_image={result.right_image_nll:.3f} "
        f"nll_wrong_image={result.wrong_image_nll:.3f}"
    )


def evaluate_masked_words(options: MaskedWordsOptions) -> MaskedWordsResult:
    """Evaluate a checkpoint. Raises ValueError where it, the shards or their content words are missing."""
    checkpoint = find_checkpoint(options.source)
    model, config = load_model(checkpoint), checkpoint.config
    tokenizer = TextTokenizer(checkpoint.text_tokenizer)
    images, captions = read_held_out(options.pairs, config.data, config.model.image_size, options.max_pairs)
    words = [
        word
        for pair, caption in enumerate(captions)
        for word in masked_words(pair, caption, tokenizer, config.data.caption_length)
    ]
    questions = [word for word in words if UNK_ID not in word.labels]
    num_unknown = len(words) - len(questions)
    if len(images) < 2 or not questions:
        unknown = f"; {num_unknown} words hold characters that its text tokenizer does not know" * (num_unknown > 0)
        raise ValueError(f"{options.pairs} has no two pairs with content words that fit caption_length{unknown}")
    pixels = network_view(images, config.model.image_size)
    with progress_bar("words", 2 * len(questions)) as progress:
        right, right_nll = _guess(model, pixels, questions, 0, progress.update)
        # half the pairs away: a fixed, other image for every caption
        wrong, wrong_nll = _guess(model, pixels, questions, len(images) // 2, progress.update)
    commonest_count = Counter(question.word for question in questions).most_common(1)[0][1]
    return MaskedWordsResult(
        len(questions), num_unknown, right, wrong, commonest_count / len(questions), right_nll, wrong_nll
    )


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
def _guess(
    model: MaskedDataModel,
    pixels: Tensor,
    questions: list[MaskedWord],
    shift: int,
    progress: Callable[[int], object],
) -> tuple[float, float]:
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
        # K hidden tokens of the whole chunk at once: the head is the largest product here
        rows = torch.tensor([row for row, question in enumerate(chunk) for _ in question.positions])  # (K,)
        positions = torch.tensor([position for question in chunk for position in question.positions])  # (K,)
        labels = torch.tensor([label for question in chunk for label in question.labels])  # (K,)
        logits = model.mlm_head(model.encode(inputs).captions[rows, positions])  # (K, vocab)
        wrong = (logits.argmax(-1) != labels).long()
        num_wrong_tokens = torch.zeros(len(chunk), dtype=torch.int64).index_add_(0, rows, wrong)
        num_right += int((num_wrong_tokens == 0).sum())
        nll_sum += float(functional.cross_entropy(logits, labels, reduction="sum"))
        num_tokens += len(labels)
        progress(len(chunk))
    return num_right / len(questions), nll_sum / num_tokens


if __name__ == "__main__":
    main()
