"""python -m data_pipeline.index_shards KIND FOLDER : index WebDataset shards in place.

For shards that others wrote (img2dataset, open_clip users), also remote ones. Shards that were scanned before and have
not changed are not read again.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.command_line import num_cores, progress_bar, run_command, worker_pool
from data_pipeline.remote_files import is_remote, list_remote_shards, local_copy, public_url, remote_origin
from data_pipeline.samples import Kind
from data_pipeline.shard_index import check_name, merge_scans, read_index
from data_pipeline.shard_scan import SampleReport, file_origin, load_scan, save_scan, scan_path, scan_shard
from data_pipeline.sources.files import walk
from data_pipeline.write_shards import unfinished_parts


@dataclass(frozen=True)
class IndexOptions:
    """Index the .tar shards of a folder or URL. They are read, never rewritten."""

    kind: tyro.conf.Positional[Kind]
    """What a sample must have: image (jpg, png or webp), text (txt), or both."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder of shards, at any depth, or its URL."""
    out: Path | None = None
    """Folder for the index, where it should not lie beside the shards or cannot."""
    deduplicate: bool = False
    """Of exact copies only the first is kept in the index."""
    leave_out_damaged: bool = False
    """Index what can be read. Otherwise a damaged shard is an error, which names all of them."""
    num_workers: int = num_cores()
    """Processes that read."""


def main() -> None:
    run_command(IndexOptions, "data_pipeline.index_shards", _index)


def _index(options: IndexOptions) -> str:
    report = index_shards(options)
    out = options.out or Path(options.folder)
    return "\n".join([*report.lines(), f"{out}: {read_index(out)}"])


def index_shards(options: IndexOptions) -> SampleReport:
    """Scan what is new, write the index. Raises ValueError for damaged shards and where there is no sample."""
    remote = is_remote(options.folder)
    if remote and options.out is None:
        raise ValueError(f"{public_url(options.folder)} is remote; give --out, a local folder for its index")
    folder = options.folder if remote or options.out is None else str(Path(options.folder).resolve())
    out = options.out or Path(folder)
    shards = list_remote_shards(folder) if remote else list_shards(Path(folder))
    if not shards:
        raise ValueError(
            f"{public_url(folder)} holds no .tar shard; write some with python -m data_pipeline.write_shards"
        )
    for shard in shards:
        check_name(shard)
    out.mkdir(parents=True, exist_ok=True)
    scan = partial(scan_one, folder, out, options.kind)
    problems: dict[str, str] = {}
    with worker_pool(options.num_workers) as workers, progress_bar("shards", len(shards)) as progress:
        for shard, problem in zip(shards, workers.map(scan, shards), strict=True):
            progress.update()
            if problem:
                problems[shard] = problem
    if problems and not options.leave_out_damaged:
        raise ValueError("\n".join([*problems.values(), "mend them or give --leave-out-damaged"]))
    sound = [shard for shard in shards if shard not in problems]
    scans = [scan_path(out, shard) for shard in sound]
    shard_folder = folder if options.out is not None else ""
    report = merge_scans(out, options.kind, sound, scans, shard_folder, options.deduplicate)
    for problem in problems.values():
        report.skip(problem, "damaged shard")
    return report


def list_shards(folder: Path) -> list[str]:
    """Names relative to the folder, at any depth. Raises ValueError where write_shards is not done with it."""
    if not folder.is_dir():
        raise ValueError(f"shard folder {folder} does not exist")
    if unfinished := unfinished_parts(folder):
        numbers = ", ".join(map(str, unfinished))
        raise ValueError(f"write_shards has not finished {folder}: part {numbers} is missing; run it first")
    return [name for name in walk(folder) if name.endswith(".tar")]


def scan_one(folder: str, out: Path, kind: Kind, shard: str) -> str:
    """In a worker: scan a shard unless that was done. Returns what is wrong with it, or nothing."""
    path, remote = scan_path(out, shard), is_remote(folder)
    location = f"{folder.rstrip('/')}/{shard}"
    try:
        place = "" if Path(folder) == out else folder
        origin = remote_origin(location) if remote else file_origin(Path(location), place)
        if _is_known(path, kind, origin):
            return ""
        source: AbstractContextManager[Path] = local_copy(location) if remote else nullcontext(Path(location))
        with source as local:
            save_scan(scan_shard(local, kind, origin), path)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"shard {public_url(location)} cannot be read ({error})"
    return ""


def _is_known(path: Path, kind: Kind, origin: str) -> bool:
    try:
        scan = load_scan(path)
    except FileNotFoundError:
        return False
    return (scan.kind, scan.origin) == (kind, origin)


if __name__ == "__main__":
    main()
