"""The text tokenizer beside weights: its file, its fingerprint, and how many rows of the network it uses."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from data_pipeline.files.hashing import file_sha256
from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import Heads, MultiwayConfig
from model.parameter_counts import parameter_shapes
from model.weight_files import is_safetensors

EXPORTED_NAME = "text_tokenizer.spm"
"""Name of the file in folders that pretrain.convert writes."""
MICROSOFTS_NAME = "beit3.spm"
"""Name of Microsoft's own; earlier exports used it for ours."""
FINGERPRINT_KEY = "text_tokenizer_sha256"
"""Key in the metadata of a safetensors file, and beside the weights in Microsoft's."""
WORD_ROWS = ("encoder.text_embed.word_embed.", "mlm_head.")
"""Prefixes of the parameters that have a row for each id."""
SPARE_ROWS = 8
"""Unused rows of BEiT-3 itself: 64,002 ids, 64,010 rows."""


@dataclass(frozen=True)
class Vocabulary:
    """A text tokenizer on disk."""

    path: Path
    sha256: str
    num_ids: int


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a text tokenizer. Raises ValueError or OSError if the file is not one."""
    return Vocabulary(path, file_sha256(path), TextTokenizer(path).vocab_size)


def tokenizer_beside(folder: Path, sha256: str | None = None, is_microsofts: bool = False) -> Path | None:
    """Return the text tokenizer of the weights in a folder, None if there is none.

    sha256: its fingerprint, if the weights record one; is_microsofts: prefer their file name to ours. Raises ValueError
    if only tokenizers of other weights are there.
    """
    names = (MICROSOFTS_NAME, EXPORTED_NAME) if is_microsofts else (EXPORTED_NAME, MICROSOFTS_NAME)
    found = [folder / name for name in names if (folder / name).is_file()]
    if sha256 is None or not found:
        return found[0] if found else None
    for path in found:
        if file_sha256(path) == sha256:
            return path
    raise ValueError(
        f"{found[0]} is not the text tokenizer that the weights beside it were trained with (SHA-256 "
        f"{sha256[:16]}...); put that one there as {EXPORTED_NAME}"
    )


def fingerprint_in(weights: Path) -> str | None:
    """Return the text tokenizer's fingerprint in a safetensors file, None if an earlier version wrote it.

    Raises ValueError if the file cannot be read.
    """
    if not weights.exists():
        raise ValueError(f"{weights} does not exist; write it with pretrain.convert --to safetensors")
    try:
        if not is_safetensors(weights):
            return None  # reading its weights raises an error that names its kind
        with safe_open(weights, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except OSError as error:
        raise ValueError(f"{weights} cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged: {error}") from error
    return metadata.get(FINGERPRINT_KEY)


def unused_rows(num_ids: int, config: MultiwayConfig, remedy: str = "", heads: Heads | None = None) -> str | None:
    """Return a sentence on the rows of the word embedding that no id of the tokenizer reaches; None if there are none.

    remedy: appended if there are more than BEiT-3's own spare ones; heads: as for `build_network`.
    """
    num_unused = config.vocab_size - num_ids
    if num_unused <= 0:
        return None
    shapes = parameter_shapes(config, heads)
    words = sum(shape.numel() // shape[0] for name, shape in shapes.items() if name.startswith(WORD_ROWS))
    share = num_unused * words / sum(shape.numel() for shape in shapes.values())
    sentence = f"the text tokenizer has {num_ids} ids, the model {config.vocab_size} rows of words"
    if num_unused <= SPARE_ROWS:
        return f"{sentence}: {num_unused} are never used"
    return f"{sentence}: {num_unused}, {share:.0%} of all parameters, are never used" + (remedy and f"; {remedy}")
