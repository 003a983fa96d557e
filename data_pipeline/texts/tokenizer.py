"""SentencePiece with the ids of BEiT-3 (those of XLM-RoBERTa).

| id      | 0     | 1       | 2      | 3       | 4 ...            | last     |
| ------- | ----- | ------- | ------ | ------- | ---------------- | -------- |
| token   | `<s>` | `<pad>` | `</s>` | `<unk>` | pieces           | `<mask>` |

A piece has its SentencePiece id + 1, and `<mask>` the number of pieces + 1: 64001 for BEiT-3's `beit3.spm`, whose
64000 pieces include SentencePiece's own `<unk>`, `<s>`, `</s>`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sentencepiece

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
FIRST_PIECE_ID = 4
_SPM_TO_ID = {0: UNK_ID, 1: BOS_ID, 2: EOS_ID}
_SPECIALS = ("<unk>", "<s>", "</s>")
"""SentencePiece's first pieces by their ids. BEiT-3's ids require this order."""
NO_TOKEN = "text has no token of the text tokenizer"
"""Reason for skipping a text of characters that normalization removes, such as zero-width ones."""
_LFS_POINTER = b"version https://git-lfs.github.com/"


class TextTokenizer:
    """Converts text to ids and back. Cheap to send to another process, which reads the model on first use."""

    def __init__(self, path: Path):
        """Read a SentencePiece model, such as beit3.spm.

        Raises ValueError if the file is missing, damaged or of another layout, and OSError if
        it cannot be read.
        """
        self.path = Path(path)
        _ = self._model  # a damaged model fails now, not in a loader process

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    @cached_property
    def _model(self) -> "sentencepiece.SentencePieceProcessor":
        return _read_model(self.path)

    @property
    def mask_id(self) -> int:
        return int(self._model.get_piece_size()) + 1

    @property
    def vocab_size(self) -> int:
        """Number of ids, including `<mask>`."""
        return self.mask_id + 1

    @property
    def piece_ids(self) -> tuple[int, int]:
        """Range of the ids of pieces: (first, stop)."""
        return FIRST_PIECE_ID, self.mask_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without <s> and </s>."""
        return [_SPM_TO_ID.get(piece, piece + 1) for piece in self._model.encode(text)]

    def encode_to_length(self, text: str, length: int) -> list[int]:
        """Return <s> text </s>, cut and padded to `length` ids."""
        ids = [BOS_ID, *self.encode(text)[: length - 2], EOS_ID]
        return ids + [PAD_ID] * (length - len(ids))

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids without specials."""
        return str(self._model.decode([i - 1 for i in ids if FIRST_PIECE_ID <= i < self.mask_id]))


@dataclass(frozen=True)
class UnknownShare:
    """Share of `<unk>` in some texts."""

    num_tokens: int = 0
    num_unknown: int = 0
    """Number of `<unk>` tokens. SentencePiece gives one for a whole run of unknown characters."""

    WARNED = 0.01
    """Larger shares cause a warning: a tokenizer trained on the data misses about one character in 2,000."""

    @property
    def share(self) -> float:
        return self.num_unknown / max(1, self.num_tokens)

    def __add__(self, other: "UnknownShare") -> "UnknownShare":
        return UnknownShare(self.num_tokens + other.num_tokens, self.num_unknown + other.num_unknown)

    def __str__(self) -> str:
        return f"{self.share:.2%} of {self.num_tokens} tokens are <unk>"

    @property
    def warning(self) -> str:
        """Warning if the share is large, else ""."""
        if self.share <= self.WARNED:
            return ""
        return (
            f"{self}, more than {self.WARNED:.0%}: the text tokenizer does not cover these texts; "
            "train one on them with python -m data_pipeline.train_text_tokenizer"
        )


def unknown_share(ids: Iterable[int]) -> UnknownShare:
    """Return the share of `<unk>` in the ids of a text, not counting <s>, </s> and padding."""
    counts = Counter(ids)
    num_tokens = counts.total() - counts[BOS_ID] - counts[PAD_ID] - counts[EOS_ID]
    return UnknownShare(num_tokens, counts[UNK_ID])


def _read_model(path: Path) -> "sentencepiece.SentencePieceProcessor":
    """Return the model in a file. Raises ValueError or OSError with a sentence that names the file."""
    import sentencepiece  # a command that only prints its --help does without

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"text tokenizer {path} does not exist; give that of the initial weights, such as beit3.spm, or train one "
            "with python -m data_pipeline.train_text_tokenizer"
        ) from None
    except OSError as error:
        unreadable = OSError(f"text tokenizer {path} cannot be read ({error.strerror})")
        unreadable.errno = error.errno
        raise unreadable from error
    if content.startswith(_LFS_POINTER):
        raise ValueError(f"text tokenizer {path} is a git-LFS pointer, not the file itself; fetch it with git lfs pull")
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=content) if content else None
    except RuntimeError:
        model = None
    if model is None:
        raise ValueError(f"text tokenizer {path} is damaged or not a SentencePiece model; restore it or give another")
    ids = (model.unk_id(), model.bos_id(), model.eos_id())
    if ids != (0, 1, 2):
        named = ", ".join(f"{name} {number}" for name, number in zip(_SPECIALS, ids, strict=True))
        raise ValueError(
            f"text tokenizer {path} has the ids {named}, not 0, 1, 2 as BEiT-3's does; give one of its layout, "
            "such as python -m data_pipeline.train_text_tokenizer makes"
        )
    return model
