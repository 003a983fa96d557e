"""SentencePiece with the ids of BEiT-3 (those of XLM-RoBERTa).

| id      | 0     | 1       | 2      | 3       | 4 ...            | last     |
| ------- | ----- | ------- | ------ | ------- | ---------------- | -------- |
| token   | `<s>` | `<pad>` | `</s>` | `<unk>` | pieces           | `<mask>` |

A piece has its SentencePiece id + 1, `<mask>` the number of pieces + 1: 64001 for BEiT-3's `beit3.spm`, whose 64000
pieces include SentencePiece's own `<unk>`, `<s>`, `</s>`.
"""

import io
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

import sentencepiece

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
FIRST_PIECE_ID = 4
_SPM_TO_ID = {0: UNK_ID, 1: BOS_ID, 2: EOS_ID}


class TextTokenizer:
    """Text to ids and back. Cheap to make and to send to another process: the model is read on first use."""

    def __init__(self, path: Path):
        """path: a SentencePiece model, such as beit3.spm. Raises ValueError where there is none."""
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"text tokenizer {path} does not exist; train one with data_pipeline.train_text_tokenizer")

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    @cached_property
    def _model(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_file=str(self.path))

    @property
    def mask_id(self) -> int:
        return int(self._model.get_piece_size()) + 1

    @property
    def vocab_size(self) -> int:
        """Number of ids, `<mask>` included."""
        return self.mask_id + 1

    @property
    def piece_ids(self) -> tuple[int, int]:
        """The ids of real pieces: [first, stop)."""
        return FIRST_PIECE_ID, self.mask_id

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without <s> and </s>."""
        return [_SPM_TO_ID.get(piece, piece + 1) for piece in self._model.encode(text)]

    def encode_to_length(self, text: str, length: int) -> list[int]:
        """<s> text </s>, cut and padded to `length` ids."""
        ids = [BOS_ID, *self.encode(text)[: length - 2], EOS_ID]
        return ids + [PAD_ID] * (length - len(ids))

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; specials are left out."""
        return str(self._model.decode([i - 1 for i in ids if FIRST_PIECE_ID <= i < self.mask_id]))


ModelType = Literal["unigram", "bpe"]
SHORT_PART = re.compile(r".{1,1000}(?!\S)|\S{1,1000}")
"""Whole words of a line, up to 1000 characters: SentencePiece silently leaves out what has more than 4192 bytes."""


def train_text_tokenizer(
    texts: Iterable[str], path: Path, vocab_size: int, model_type: ModelType = "unigram"
) -> TextTokenizer:
    """Train a model with BEiT-3's specials (SentencePiece's own, no pad or mask piece) and write it to `path`.

    vocab_size: SentencePiece pieces, its three specials included. Raises ValueError where the texts do not give them.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(part for text in texts for part in SHORT_PART.findall(text)),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            num_threads=1,  # the result must not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        largest = re.search(r"value <= (\d+)", str(error))
        reason = f"they give at most {largest[1]}" if largest else str(error)
        raise ValueError(f"vocab_size {vocab_size} does not fit the texts: {reason}; choose another") from error
    path.write_bytes(model.getvalue())
    return TextTokenizer(path)
