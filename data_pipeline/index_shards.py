"""python -m data_pipeline.index_shards KIND FOLDER : index WebDataset shards in place.

For shards from other tools (img2dataset, WebDataset), local or remote. Shards that were scanned before and have not
changed are not read again.
"""

import errno
import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.files.folder_lock import LOCK_NAME, folder_lock
from data_pipeline.files.remote_files import is_remote, list_remote_files, local_copy, public_url, remote_origin
from data_pipeline.files.retries import naming_write_errors
from data_pipeline.samples.sample import Kind, is_utf8, printable
from data_pipeline.settings.command_line import num_cores, progress_bar, run_command
from data_pipeline.settings.ranges import Workers, check_ranges
from data_pipeline.shards.index import INDEX_NAME, check_name, read_index
from data_pipeline.shards.index_writer import merge_scans
from data_pipeline.shards.parts import unfinished_parts
from data_pipeline.shards.scan import (
    SCAN_VERSION,
    SCANS_NAME,
    SampleReport,
    file_origin,
    load_scan,
    save_scan,
    scan_path,
    scan_shard,
)
from data_pipeline.sources.files import is_hidden, walk
from data_pipeline.workers.pool import worker_pool

ARCHIVE = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|lzma|z)|tgz|tbz2?|txz|tzst|tar)$", re.IGNORECASE)
"""Matches names of shards, and of compressed archives that may be taken for shards."""


@dataclass(frozen=True)
class IndexOptions:
    """Index the .tar shards of a folder or URL. Shards are read, never rewritten."""

    kind: tyro.conf.Positional[Kind]
    """Parts that a sample must have: image (jpg, png or webp), text (txt), pair (both), or those of a task: vqa (image,
    txt, json), nlvr2 (image, image2.png, txt, json), caption or label (image, json)."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder or URL that holds shards at any depth; or, with --out, a single .tar."""
    out: Path | None = None
    """Folder for the index, by default FOLDER. Required for remote shards."""
    caption_key: str = ""
    """Field of the .json members that holds the texts. By default the .txt members are the texts."""
    deduplicate: bool = False
    """Keep only the first of exact copies in the index."""
    leave_out_damaged: bool = False
    """Skip damaged shards. By default they are an error that names all of them."""
    num_workers: Workers = field(default_factory=num_cores)
    """Number of processes that read shards."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.caption_key and self.kind not in ("pair", "text"):
            raise ValueError(
                f"--caption-key names the texts of kind pair or text; kind {self.kind} has none in its .json"
            )


def main() -> None:
    run_command(IndexOptions, "data_pipeline.index_shards", _index)


def _index(options: IndexOptions) -> str:
    out = options.out or Path(options.folder)
    before = kind_of_index(out)
    report = index_shards(options)
    num_kept_members = report.num_members - report.num_skipped_members
    members = f"  {report.num_members} members: {num_kept_members} of samples, {report.num_skipped_members} skipped"
    lines = [*report.lines(), members]
    if before not in (None, options.kind):
        lines.append(f"  warning: this replaces an index of kind {before!r}; --out keeps both")
    return "\n".join([*lines, f"{printable(str(out))}: {read_index(out)}"])


@dataclass(frozen=True)
class Shards:
    """The shards to index."""

    folder: str
    """Path or URL."""
    names: list[str]
    """Paths of the shards relative to `folder`."""
    left_out: dict[str, str]
    """Archives that are not shards, such as compressed tars: relative path to reason."""


@dataclass(frozen=True)
class Problem:
    """Why a shard could not be scanned."""

    message: str
    is_damage: bool
    """Whether the shard itself is at fault, not permissions, the network or the disk."""


def index_shards(options: IndexOptions) -> SampleReport:
    """Scan new shards and write the index. Returns what was kept and skipped.

    Raises ValueError for damaged shards and if there is no sample, OSError if the index cannot be written.
    """
    shards = find_shards(options)
    out = options.out or Path(shards.folder)
    locks = out / SCANS_NAME / LOCK_NAME
    with naming_write_errors(out):
        locks.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(locks, part=0):  # two commands that index one folder would delete each other's records
        return _index_found(options, shards, out)


def _index_found(options: IndexOptions, shards: Shards, out: Path) -> SampleReport:
    scan = partial(scan_one, shards.folder, out, options.kind, options.caption_key)
    problems: dict[str, Problem] = {}
    with worker_pool(options.num_workers) as workers, progress_bar("shards", len(shards.names)) as progress:
        for shard, problem in zip(shards.names, workers.map(scan, shards.names), strict=True):
            progress.update()
            if problem:
                problems[shard] = problem
    refuse(list(problems.values()), options.leave_out_damaged and len(problems) < len(shards.names))
    sound = [shard for shard in shards.names if shard not in problems]
    report = merge_scans(
        out,
        options.kind,
        sound,
        [scan_path(out, shard) for shard in sound],
        shard_folder=shards.folder if options.out is not None else "",
        deduplicate=options.deduplicate,
        caption_key=options.caption_key,
    )
    for problem in problems.values():
        report.skip(problem.message, "damaged shard")
    for name, reason in shards.left_out.items():
        report.skip(name, reason)
    return report


def refuse(problems: list[Problem], may_leave_out: bool) -> None:
    """Raise ValueError if shards could not be scanned, unless they are damaged and may be left out."""
    unreadable = [problem.message for problem in problems if not problem.is_damage]
    if unreadable:
        raise ValueError("\n".join([*unreadable, "make them readable and rerun the same command"]))
    if problems and not may_leave_out:
        remedy = "repair them, or skip them with --leave-out-damaged if others are sound"
        raise ValueError("\n".join([*(p.message for p in problems), remedy]))


def find_shards(options: IndexOptions) -> Shards:
    """Return the shards of the folder. Raises ValueError if there are none, or if write_shards has not finished."""
    location, remote = options.folder, is_remote(options.folder)
    if remote and options.out is None:
        raise ValueError(f"{public_url(location)} is remote; give --out, a local folder for its index")
    is_single = location.endswith(".tar") and (remote or not Path(location).is_dir())
    if is_single and options.out is None:
        raise ValueError(
            f"{public_url(location)} is a single shard; give --out, a folder for its index, or the folder it lies in"
        )
    if remote:
        folder, _, name = location.rpartition("/") if is_single else (location, "", "")
        files = [name] if is_single else list_remote_files(folder)
    else:
        path = Path(location).parent if is_single else Path(location)
        folder = str(path.resolve()) if options.out is not None else location
        files = [Path(location).name] if is_single else list_files(path)
        check_holds_no_indexes(path, files, is_single)
    archives = [file for file in files if ARCHIVE.search(file)]
    hidden = [] if is_single else [file for file in archives if is_hidden(file)]
    others = [file for file in archives if not file.endswith(".tar") and file not in hidden]
    left_out = dict.fromkeys(others, "archive is not a shard, decompress it to a file whose name ends in .tar")
    left_out |= dict.fromkeys(hidden, "archive is hidden")
    names = [file for file in archives if file not in left_out]
    if not names:
        instead = f" but {printable(others[0])}, which must be decompressed" if others else ""
        raise ValueError(
            f"{public_url(location)} holds no .tar shard{instead}; write some with python -m data_pipeline.write_shards"
        )
    for name in names:
        check_name(name)
    for name in (*names, folder) if options.out is not None else names:
        if not is_utf8(name):
            raise ValueError(f"'{printable(name)}' is not UTF-8, as names in an index must be; rename it")
    return Shards(folder, names, left_out)


def kind_of_index(out: Path) -> Kind | None:
    """Return the kind of a folder's index; None if there is no index or it is damaged."""
    try:
        return read_index(out, check_shards=False).kind
    except ValueError:
        return None


def check_holds_no_indexes(folder: Path, files: list[str], is_single: bool) -> None:
    """Raise ValueError if subfolders have indexes of their own: one index over all would mix in held-out shards."""
    with_shards = {os.path.dirname(file) for file in files if file.endswith(".tar")}
    inner = (os.path.dirname(file) for file in files if os.path.basename(file) == INDEX_NAME)
    indexed = [name for name in inner if name and name in with_shards]  # not those of --out, without shards beside them
    if indexed and not is_single:
        named = ", ".join(printable(f"{folder}/{name}") for name in indexed[:5])
        raise ValueError(f"{folder} holds folders with an index of their own ({named}); name one of them")


def list_files(folder: Path) -> list[str]:
    """Return the files of a folder at any depth, by relative path. Raises ValueError if it is not finished."""
    if not folder.is_dir():
        raise ValueError(f"shard folder {folder} {'is not a folder' if folder.exists() else 'does not exist'}")
    if unfinished := unfinished_parts(folder):
        numbers = ", ".join(map(str, unfinished))
        raise ValueError(f"write_shards has not finished {folder}: part {numbers} is missing; run it first")
    return list(walk(folder))


def scan_one(folder: str, out: Path, kind: Kind, caption_key: str, shard: str) -> Problem | None:
    """Scan a shard in a worker, unless it was scanned before. Returns a problem if it cannot be read.

    Raises OSError if the scan cannot be written: the shard is not at fault.
    """
    path, remote = scan_path(out, shard), is_remote(folder)
    location = f"{folder.rstrip('/')}/{shard}"
    try:
        place = "" if Path(folder) == out else folder
        origin = remote_origin(location) if remote else file_origin(Path(location), place)
        if _is_known(path, kind, origin, caption_key):
            return None
        source: AbstractContextManager[Path] = local_copy(location) if remote else nullcontext(Path(location))
        with source as local:
            scan = scan_shard(local, kind, origin, caption_key=caption_key, location=public_url(location))
    except ValueError as error:
        return Problem(str(error), is_damage=True)
    except OSError as error:
        message = f"shard {printable(public_url(location))} cannot be read ({error.strerror or error})"
        return Problem(message, is_damage=error.errno == errno.EIO)
    save_scan(scan, path)
    return None


def _is_known(path: Path, kind: Kind, origin: str, caption_key: str) -> bool:
    try:
        scan = load_scan(path)
    except FileNotFoundError:
        return False
    return (scan.version, scan.kind, scan.origin, scan.caption_key) == (SCAN_VERSION, kind, origin, caption_key)


if __name__ == "__main__":
    main()
