"""The folder that converted weights are written into: complete or not at all, without replacing files of others."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.files.hashing import file_sha256
from data_pipeline.shards.index import INDEX_NAME
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME
from pretrain.checkpoints.manifest import MANIFEST_NAME
from pretrain.checkpoints.reader import is_checkpoint
from pretrain.conversion.model_card import MADE_BY, is_readme, make_card, read_card, render_readme
from pretrain.conversion.source import Source
from pretrain.conversion.target import CARD_NAME, README_NAME, Target
from pretrain.conversion.verify import TOLERANCE, largest_difference
from pretrain.formats.preprocessing import (
    PREPROCESSING_NAME,
    Preprocessing,
    read_preprocessing,
    write_preprocessing,
)
from pretrain.formats.vocabulary import EXPORTED_NAME, MICROSOFTS_NAME, Vocabulary

ANOTHER = "give another folder to write into"
SHARED_NAMES = (CONFIG_NAME, EXPORTED_NAME, PREPROCESSING_NAME, README_NAME)
"""Files beside the weights whose names do not depend on format and role."""


class ExportFolder:
    """The folder OUT, for weights in one format and role."""

    def __init__(self, out: Path, target: Target):
        self.out, self.target = out, target
        self.path = out / target.weights_name
        """The weights."""
        self.card = out / target.card_name

    def check_is_free(self, source: Path) -> None:
        """Raise ValueError if writing there would replace something else."""
        out = self.out
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; {ANOTHER}")
        if (out / "checkpoints").is_dir() or (out / MANIFEST_NAME).is_file():
            raise ValueError(f"{out} is a run or a checkpoint; {ANOTHER}")
        if (out / INDEX_NAME).is_file():
            raise ValueError(f"{out} is a folder of shards; {ANOTHER}")
        if any(is_checkpoint(parent) for parent in out.resolve().parents):
            raise ValueError(f"{out} lies in a checkpoint, which must hold only its own files; {ANOTHER}")
        for path in (self.path, self.card, *(out / name for name in SHARED_NAMES)):
            if path.is_dir():
                raise ValueError(f"{path} is a folder; {ANOTHER}")
        weights = source / WEIGHTS_NAME if source.is_dir() else source
        if self.path.exists() and self.path.resolve() == weights.resolve():
            raise ValueError(f"{self.path} is the source itself; {ANOTHER}")
        if any(path.exists() for path in (self.path, self.card, out / self.target.opened_first)):
            held = read_card(self.card).get("format") if self.card.is_file() else None
            if held != self.target.name:
                raise ValueError(f"{out} holds {held or 'files of others'} already; {ANOTHER}")
        readme = out / README_NAME
        if readme.exists() and not (readme.is_file() and is_readme(readme.read_text(errors="replace"))):
            raise ValueError(f"{readme} is not a card that was written here; {ANOTHER}")

    def check_tokenizer(self, vocabulary: Vocabulary | None) -> None:
        """Raise ValueError if weights with another text tokenizer lie there."""
        # Microsoft's own file does not matter, but earlier versions gave its name to ours
        names = [EXPORTED_NAME, MICROSOFTS_NAME] if self._other_cards(by_earlier=True) else [EXPORTED_NAME]
        for path in (self.out / name for name in names):
            if path.is_file() and (vocabulary is None or file_sha256(path) != vocabulary.sha256):
                raise ValueError(f"{path} is the text tokenizer of other weights; {ANOTHER}")

    def check_labels(self, labels: Path | None) -> None:
        """Raise ValueError if the list of other answers or classes lies there."""
        if labels is None:
            return
        path = self.out / labels.name
        if path.is_file() and file_sha256(path) != file_sha256(labels):
            raise ValueError(f"{path} is the list of other weights; {ANOTHER}")

    def check_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Raise ValueError if weights whose images or texts are prepared differently lie there."""
        path, is_shared = self.out / PREPROCESSING_NAME, bool(self._other_cards()) or not self.card.is_file()
        if path.is_file() and is_shared and read_preprocessing(self.out) != preprocessing:
            raise ValueError(f"{path} is that of other weights; {ANOTHER}")

    def write(self, source: Source, verify: bool) -> dict[str, Any]:
        """Write all files and return the card. Raises ValueError or OSError, leaving the folder as it was."""
        is_new = not self.out.exists()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with self._partial() as partial:
                card = self._fill(partial, source, verify)
                self._move(partial)
            return card
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"{self.out} cannot be written ({reason}); make room there, or {ANOTHER}") from error
        finally:
            if is_new and self.out.is_dir() and not any(self.out.iterdir()):
                self.out.rmdir()

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """Make an empty folder inside, for one process at a time; leftovers of a killed one are removed."""
        partial = self.out / f".partial-{self.path.stem}"
        partial.mkdir(exist_ok=True)  # on OUT's own file system, so that files move into place without being copied
        descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"another pretrain.convert writes {self.path} now; wait for it to end") from error
            # the kernel drops the lock of a process that was killed, so whatever lies here now is nobody's
            for leftover in partial.iterdir():
                leftover.unlink()
            try:
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(descriptor)

    def _fill(self, folder: Path, source: Source, verify: bool) -> dict[str, Any]:
        path = folder / self.path.name
        self.target.write(source, folder)
        difference = None
        if verify:
            difference = largest_difference(self.target, source, path)
            if not difference <= TOLERANCE:  # in this form NaN fails too
                raise ValueError(f"{path.name} differs from its source by {difference:.1e}, more than {TOLERANCE}")
        if source.vocabulary is not None:
            shutil.copyfile(source.vocabulary.path, folder / EXPORTED_NAME)
        if source.labels is not None:
            shutil.copyfile(source.labels, folder / source.labels.name)
        write_preprocessing(source.exported_preprocessing, folder)
        card = make_card(self.target, source, difference)
        (folder / self.card.name).write_text(json.dumps(card, indent=2) + "\n")
        (folder / README_NAME).write_text(render_readme([card, *self._other_cards()]))
        return card

    def _other_cards(self, by_earlier: bool = False) -> list[dict[str, Any]]:
        """Return the cards of weights in other formats and roles there.

        by_earlier: return those of earlier versions instead, which lack entries that README.md needs.
        """
        paths = [path for path in (self.out / CARD_NAME, *sorted(self.out.glob("beit3_*.json"))) if path.is_file()]
        cards = [read_card(path) for path in paths if path != self.card]
        return [card for card in cards if (card.get("made_by") != MADE_BY) == by_earlier]

    def _move(self, partial: Path) -> None:
        """Move all files into their places, the one that a loader opens first last."""
        last = self.target.opened_first
        # without it an earlier export does not load while its files are replaced by those of this one
        (self.out / last).unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
            file.replace(self.out / file.name)
