"""python -m data_pipeline.write_shards KIND SOURCE OUT : WebDataset shards and their index from raw data.

One process lists the source, --num-workers processes write a shard each. The same command after a kill goes on with
the shards that are missing. As a job array (slurm/write_shards.sbatch) every task takes --part I --num-parts N, and the
one that finishes last writes the index of all.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.files.folder_lock import LOCK_NAME, FolderLock, folder_lock
from data_pipeline.files.retries import told_if_not_written
from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.samples.scenes import Split
from data_pipeline.settings.changes import changes
from data_pipeline.settings.command_line import num_cores, progress_bar, run_command, worker_pool
from data_pipeline.settings.ranges import Count, CountOrZero, TextLength, Workers, check_ranges
from data_pipeline.shards.index import INDEX_NAME, ShardIndex, read_index
from data_pipeline.shards.index_writer import merge_scans
from data_pipeline.shards.members import MAX_MEMBER_BYTES
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.scan import (
    SCANS_NAME,
    SampleReport,
    file_origin,
    load_scan,
    own_partial,
    scan_path,
)
from data_pipeline.shards.writer import OTHER_SIDE, SampleFilter, checked_text, is_in_split, write_shard
from data_pipeline.sources import DRAWN, SourceOptions, read_records
from data_pipeline.texts.passages import pack_passages
from data_pipeline.texts.token_coverage import covered_share
from data_pipeline.texts.tokenizer import NO_TOKEN, TextTokenizer

PLAN_NAME = "plan.txt"
FINISHED = "finished-"
MOST_PROBLEMS = 10_000
"""Records of a block that are no samples."""
LATER_OPTIONS = ("image_splits", "unescape_html")
"""Options that folders of earlier versions do not know: the plan has them only if they are given."""
BLOCKS_AHEAD = 2
"""Blocks listed ahead for each worker."""
CHARACTERS_PER_TOKEN = 4
"""About so many in English, to give shards of texts about as many samples as others have."""


@dataclass(frozen=True)
class ShardOptions:
    """Write WebDataset shards with an index. What SOURCE may be: see data_pipeline/README.md."""

    kind: tyro.conf.Positional[Kind]
    """What a sample is."""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder, a file (.tar .txt .json .jsonl .csv .tsv .parquet), or scenes:COUNT[:SEED] for drawn scenes."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write into."""
    samples_per_shard: Count = 1000
    """Records of the source that become a shard; kind text: documents of about so many passages."""
    split: Split = "train"
    """Which part of the source."""
    keep: tyro.conf.OmitArgPrefixes[SampleFilter] = field(default_factory=SampleFilter)
    """Which samples are kept."""
    columns: tyro.conf.OmitArgPrefixes[SourceOptions] = field(default_factory=SourceOptions)
    """How the source is read."""
    text_tokenizer: Path | None = None
    """The SentencePiece model of the run. Kind text: it counts tokens. Its share of <unk> is reported."""
    text_length: TextLength = 512
    """Kind text: pack whole sentences to passages of up to so many tokens, <s> and </s> included."""
    deduplicate: bool = False
    """Of exact copies only the first enters the index."""
    num_workers: Workers = field(default_factory=num_cores)
    """Processes that write."""
    part: CountOrZero = 0
    """Of a job array: which part of the shards this task writes."""
    num_parts: Count = 1
    """Of a job array: how many parts there are; the one that finishes last writes the index."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.part >= self.num_parts:
            raise ValueError(f"part {self.part} must be below num_parts {self.num_parts}: the first part is 0")
        if ":/" in str(self.out):
            raise ValueError(f"{self.out} is no folder; write to a local one and copy it, index and all")
        if self.kind == "text" and self.text_tokenizer is None:
            raise ValueError("kind text needs --text-tokenizer, a SentencePiece model, to count tokens")


def main() -> None:
    run_command(ShardOptions, "data_pipeline.write_shards", _write)


def _write(options: ShardOptions) -> str:
    report = write_shards(options)
    lines = report.lines()
    if (options.out / INDEX_NAME).is_file():
        index = read_index(options.out)
        result = str(index)
        if options.text_tokenizer is not None and options.kind != "image":
            lines.append(coverage_line(options, index))
    else:
        result = f"part {options.part} of {options.num_parts} with {report.num_kept} samples; others are to be written"
    return "\n".join([*lines, f"{options.out}: {result}"])


def coverage_line(options: ShardOptions, index: ShardIndex) -> str:
    """What the tokenizer does not know of the texts that were written."""
    assert options.text_tokenizer is not None
    share = covered_share(SampleReader(index, MAX_MEMBER_BYTES), TextTokenizer(options.text_tokenizer))
    return f"  warning: {share.warning}" if share.warning else f"  {share}"


def write_shards(options: ShardOptions) -> SampleReport:
    """Write the shards, or this part of them, and the index once all parts are there. Returns what became of samples.

    Raises ValueError for a source without samples or a folder that was started with different settings.
    """
    records = blocks(options)
    first = next(records, None)  # what is wrong with the source shows before the folder is touched
    if first is None:
        raise ValueError(f"source {options.source} is empty")
    locks = options.out / SCANS_NAME / LOCK_NAME
    with told_if_not_written(options.out):
        locks.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(locks, options.part) as lock:
        return _write_part(options, itertools.chain([first], records), lock)


def _write_part(options: ShardOptions, records: Iterator[list[Record]], lock: FolderLock) -> SampleReport:
    """Write what is missing of a part that no other process writes."""
    with told_if_not_written(options.out), lock.plan():
        check_plan(options, lock)
        finished_part(options.out, options.part).unlink(missing_ok=True)
    listing, num_blocks = hashlib.sha256(), 0
    shards: list[str] = []
    under_way: set[Future[None]] = set()
    with worker_pool(options.num_workers) as workers, progress_bar("records") as progress:
        for number, block in enumerate(records):
            progress.update(len(block))
            digest = block_digest(block)
            listing.update(digest.encode())
            num_blocks += 1
            if number % options.num_parts != options.part:
                continue
            shards.append(f"{number:06d}.tar")
            if is_written(options.out, shards[-1], digest):
                continue
            (options.out / INDEX_NAME).unlink(missing_ok=True)
            if len(under_way) >= BLOCKS_AHEAD * options.num_workers:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
            under_way.add(workers.submit(write_block, shards[-1], block, digest, options))
        for future in under_way:
            future.result()
    with told_if_not_written(options.out), lock.plan():  # of two parts that end at once, one merges after the other
        write_atomically(finished_part(options.out, options.part), f"{num_blocks} {listing.hexdigest()}\n")
        if not unfinished_parts(options.out):
            return merge_parts(options)
    report = SampleReport()
    for shard in shards:
        report.add(load_scan(scan_path(options.out, shard)).report)
    return report


def merge_parts(options: ShardOptions) -> SampleReport:
    """The index of all blocks. Raises ValueError where the parts have not seen the same source."""
    listings = {finished_part(options.out, part).read_text() for part in range(options.num_parts)}
    if len(listings) > 1:
        raise ValueError(f"{options.source} has changed between the parts of {options.out}; write all of them again")
    names = [f"{number:06d}.tar" for number in range(int(listings.pop().split()[0]))]
    scans = [scan_path(options.out, name) for name in names]
    text_length = options.text_length if options.kind == "text" else 0
    report = merge_scans(
        options.out, options.kind, names, scans, deduplicate=options.deduplicate, text_length=text_length
    )
    for path in (*options.out.glob("*.tar.*.partial"), *(options.out / SCANS_NAME).glob("*.npz.*.partial")):
        path.unlink(missing_ok=True)  # of writers that were killed
    for path in options.out.glob("*.tar"):
        if path.name not in names:  # of a source that was longer
            path.unlink(missing_ok=True)
            scan_path(options.out, path.name).unlink(missing_ok=True)
    return report


def write_block(shard: str, block: list[Record], digest: str, options: ShardOptions) -> None:
    """In a worker: one shard."""
    split = None if options.source.startswith(DRAWN) else options.split  # a scene's composition has decided it
    records: Iterable[Record] = block
    report = SampleReport()
    if options.kind == "text":
        assert options.text_tokenizer is not None
        documents = []
        for record in block:
            try:
                text = checked_text(record)
                if split is None or is_in_split(record, options.keep.held_out_fraction, split):
                    documents.append(replace(record, text=text))
                else:
                    report.skip(record.place, OTHER_SIDE[split])
            except BadSampleError as error:
                report.skip(record.place + error.details, error.reason)
        tokenizer = TextTokenizer(options.text_tokenizer)
        records = pack_passages(
            documents,
            tokenizer,
            options.text_length,
            without_tokens=lambda record: report.skip(record.place, NO_TOKEN),
        )
        split = None
    scan = scan_path(options.out, shard)
    write_shard(options.out / shard, options.kind, records, options.keep, split, scan, digest, report)


def blocks(options: ShardOptions) -> Iterator[list[Record]]:
    """The source, cut into what one shard is made of: a number of samples, or texts of about as many passages.

    Records that are no samples go with their neighbors.
    """
    is_text = options.kind == "text"
    full = options.samples_per_shard * (options.text_length * CHARACTERS_PER_TOKEN if is_text else 1)
    block, size, num_problems = list[Record](), 0, 0
    for record in read_records(options.kind, options.source, options.columns, options.split):
        block.append(record)
        if record.problem is not None:
            num_problems += 1
        else:
            size += len(record.text or "") if is_text else 1
        if size >= full or num_problems >= MOST_PROBLEMS:
            yield block
            block, size, num_problems = [], 0, 0
    if block:
        yield block


def block_digest(block: list[Record]) -> str:
    """Of names and texts: a source that has changed since a shard was written shows here."""
    digest = hashlib.sha256()
    for record in block:
        digest.update(repr((record.name, record.caption_number, record.text)).encode())
    return digest.hexdigest()[:32]


def is_written(out: Path, shard: str, digest: str) -> bool:
    """Is the shard there as it was scanned, or known to be empty, and made from this block?"""
    try:
        scan = load_scan(scan_path(out, shard))
        return scan.block == digest and (scan.num_bytes == 0 or scan.origin == file_origin(out / shard))
    except FileNotFoundError:
        return False


def finished_part(out: Path, part: int) -> Path:
    """A file that says that a part is complete, and which blocks the source had."""
    return out / SCANS_NAME / f"{FINISHED}{part}"


def unfinished_parts(out: Path) -> list[int]:
    """Parts that are still to be written in a folder that write_shards has begun."""
    if not (out / PLAN_NAME).is_file():
        return []
    num_parts = re.search(r"^num_parts = (\d{1,6})$", (out / PLAN_NAME).read_text(errors="replace"), re.MULTILINE)
    if num_parts is None:
        raise ValueError(f"{out / PLAN_NAME} is no plan of write_shards; move it away or restore it")
    return [part for part in range(int(num_parts[1])) if not finished_part(out, part).exists()]


def write_atomically(path: Path, text: str) -> None:
    partial = own_partial(path)
    partial.write_text(text)
    partial.rename(path)


def _settings_of(plan: str) -> dict[str, str]:
    """Of a plan's lines, NAME = VALUE as Python writes it; the values without the names of Python's types."""
    entries = (line.partition(" = ") for line in plan.splitlines())
    return {name: re.sub(r"^(?:\w*Path\()?'(.*?)'\)?$", r"\1", value) for name, _, value in entries}


def check_plan(options: ShardOptions, lock: FolderLock) -> None:
    """Remember what a folder was begun with. Raises ValueError if shards were written, or are, with something else."""
    path = options.out / PLAN_NAME
    free = ("out", "num_workers", "part", "deduplicate")
    entries = {name: value for name, value in vars(options).items() if name not in (*free, "keep", "columns")}
    entries |= {**vars(options.keep), **vars(options.columns)}
    for name in LATER_OPTIONS:
        if entries[name] == getattr(SourceOptions, name):
            del entries[name]
    if options.kind != "text":
        entries["text_tokenizer"] = None  # counts, and changes no shard
    elif options.text_tokenizer is not None:
        model = TextTokenizer(options.text_tokenizer).path.read_bytes()
        entries["text_tokenizer_sha256"] = hashlib.sha256(model).hexdigest()
    plan = "".join(f"{name} = {value!r}\n" for name, value in entries.items())
    if not path.is_file() and any(options.out.glob("*.tar")):
        raise ValueError(f"{options.out} holds shards of another origin; give a new folder")
    if not path.is_file():
        write_atomically(path, plan)
    told = "; ".join(changes(_settings_of(path.read_text(errors="replace")), _settings_of(plan)))
    if not told:
        return
    if any(options.out.glob("*.tar")):
        raise ValueError(f"{options.out} was started with different settings ({told}); give those, or a new folder")
    if not lock.is_alone():
        raise ValueError(f"{options.out} is being written by another command with different settings ({told})")
    for left in (options.out / SCANS_NAME).iterdir():  # a command that was mistaken has left nothing of worth
        if left.suffix == ".npz" or left.name.startswith(FINISHED):
            left.unlink()
    write_atomically(path, plan)


if __name__ == "__main__":
    main()
