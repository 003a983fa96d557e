"""python -m data_pipeline.write_shards KIND SOURCE OUT : write WebDataset shards and an index from raw data.

One process lists the source, and --num-workers processes write one shard at a time. After a kill, rerun the same
command: it writes the missing shards. In a job array (slurm/write_shards.sbatch) each task runs with --part I
--num-parts N, and the last to finish writes the index of all parts.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.files.folder_lock import LOCK_NAME, FolderLock, folder_lock
from data_pipeline.files.hashing import file_sha256
from data_pipeline.files.partial_files import write_text_atomically
from data_pipeline.files.retries import naming_write_errors
from data_pipeline.samples.answers import label_list, read_list_beside
from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.samples.scenes import Split
from data_pipeline.samples.tasks import is_task
from data_pipeline.settings.command_line import num_cores, progress_bar, run_command
from data_pipeline.settings.ranges import Count, CountOrZero, TextLength, Workers, check_ranges
from data_pipeline.shards.index import INDEX_NAME, ShardIndex, read_index
from data_pipeline.shards.index_writer import merge_scans
from data_pipeline.shards.members import MAX_MEMBER_BYTES
from data_pipeline.shards.parts import check_plan, finished_part, unfinished_parts
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.scan import SCANS_NAME, SampleReport, file_origin, load_scan, scan_path
from data_pipeline.shards.writer import OTHER_SIDE, SampleFilter, checked_text, is_in_split, write_shard
from data_pipeline.sources.blocks import block_digest, blocks
from data_pipeline.sources.readers import DRAWN, SourceOptions, read_records
from data_pipeline.sources.task_readers import TaskOptions, TaskSource
from data_pipeline.texts.passages import pack_passages
from data_pipeline.texts.token_coverage import covered_share
from data_pipeline.texts.token_ids import decoder
from data_pipeline.texts.tokenizer import NO_TOKEN, TextTokenizer
from data_pipeline.workers.pool import worker_pool

LATER_OPTIONS: dict[str, object] = {
    **{name: getattr(SourceOptions, name) for name in ("image_splits", "unescape_html")},
    **vars(TaskOptions()),
}
"""Options that earlier versions did not have: they are in the plan only if set, so that older folders can resume."""
FREE_OPTIONS = ("out", "num_workers", "part", "deduplicate")
"""Options that do not change the shards, and that a later command for the same folder may change."""
GROUPS = ("keep", "columns", "tasks")
"""Fields that hold options, not one option."""
BLOCKS_AHEAD = 2
"""Blocks listed ahead per worker."""


@dataclass(frozen=True)
class ShardOptions:
    """Write WebDataset shards with an index. docs/data.md lists the sources."""

    kind: tyro.conf.Positional[Kind]
    """Kind of the samples: of pretraining (image, pair, text) or of a task (vqa, nlvr2, caption, label)."""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder, file (.tar .txt .json .jsonl .csv .tsv .parquet), or scenes:COUNT[:SEED] for drawn scenes."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write to."""
    samples_per_shard: Count = 1000
    """Number of source records per shard; for kind text, documents that give about this many passages."""
    split: Split = "train"
    """Part of the source to write."""
    keep: tyro.conf.OmitArgPrefixes[SampleFilter] = field(default_factory=SampleFilter)
    """Rules for keeping samples."""
    columns: tyro.conf.OmitArgPrefixes[SourceOptions] = field(default_factory=SourceOptions)
    """Options for reading the source."""
    tasks: tyro.conf.OmitArgPrefixes[TaskOptions] = field(default_factory=TaskOptions)
    """Options for the kinds of tasks."""
    text_tokenizer: Path | None = None
    """SentencePiece model of the run. Required for kind text, to count tokens, and for Microsoft's index files, whose
    texts are token ids; the share of <unk> is reported."""
    text_length: TextLength = 512
    """Maximum tokens per passage for kind text, including <s> and </s>. Whole sentences are packed into passages."""
    deduplicate: bool = False
    """Keep only the first of exact copies in the index."""
    num_workers: Workers = field(default_factory=num_cores)
    """Number of processes that write shards."""
    part: CountOrZero = 0
    """Part that this task of a job array writes, from 0."""
    num_parts: Count = 1
    """Number of parts of a job array. The last task to finish writes the index."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.part >= self.num_parts:
            raise ValueError(f"part {self.part} must be below num_parts {self.num_parts}: the first part is 0")
        if ":/" in str(self.out):
            raise ValueError(f"{self.out} is not a local folder; write to one and copy it with its index")
        if self.kind == "text" and self.text_tokenizer is None:
            raise ValueError("kind text needs --text-tokenizer, a SentencePiece model, to count tokens")
        self.tasks.check_used(self.kind, self.source)


def main() -> None:
    run_command(ShardOptions, "data_pipeline.write_shards", _write)


def _write(options: ShardOptions) -> str:
    report = write_shards(options)
    lines = report.lines()
    if (options.out / INDEX_NAME).is_file():
        index = read_index(options.out)
        result = str(index)
        if options.text_tokenizer is not None and options.kind not in ("image", "label"):
            lines.append(coverage_line(options, index))
        if (labels := read_list_beside(options.out, options.kind)) is not None:
            noun, (name, _) = "answers" if options.kind == "vqa" else "classes", label_list(options.kind, labels)
            lines.append(
                f"  {len(labels)} {noun} in {options.out / name}: finetuning needs --num-classes {len(labels)}"
            )
    else:
        result = f"part {options.part} of {options.num_parts} with {report.num_kept} samples; others are to be written"
    return "\n".join([*lines, f"{options.out}: {result}"])


def coverage_line(options: ShardOptions, index: ShardIndex) -> str:
    """Return a line with the share of <unk> in the texts that were written."""
    assert options.text_tokenizer is not None
    share = covered_share(SampleReader(index, MAX_MEMBER_BYTES), TextTokenizer(options.text_tokenizer))
    return f"  warning: {share.warning}" if share.warning else f"  {share}"


def write_shards(options: ShardOptions) -> SampleReport:
    """Write the shards, or this part of them, and the index once all parts are there.

    Returns what was kept and skipped. Raises ValueError if the source has no samples, or if the folder was started with
    different settings.
    """
    labels: list[str] | None = None
    if is_task(options.kind):
        source = _task_source(options)
        labels = source.labels()
        found = source.records(labels)
    else:
        found = read_records(options.kind, options.source, options.columns, options.split)
    records = blocks(found, options.samples_per_shard, options.text_length if options.kind == "text" else 0)
    first = next(records, None)  # raises for a bad source before the folder is touched
    if first is None:
        raise ValueError(f"source {options.source} is empty")
    locks = options.out / SCANS_NAME / LOCK_NAME
    with naming_write_errors(options.out):
        locks.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(locks, options.part) as lock:
        return _write_part(options, itertools.chain([first], records), labels, lock)


def _task_source(options: ShardOptions) -> TaskSource:
    decode = None if options.text_tokenizer is None else decoder(TextTokenizer(options.text_tokenizer))
    return TaskSource(options.kind, options.source, options.columns, options.tasks, options.split, decode)


def plan_settings(options: ShardOptions) -> dict[str, object]:
    """Return the settings that the shards depend on, by name."""
    settings = {name: value for name, value in vars(options).items() if name not in (*FREE_OPTIONS, *GROUPS)}
    settings |= {**vars(options.keep), **vars(options.columns), **vars(options.tasks)}
    settings["held_out_fraction"] = options.keep.fraction(options.kind)
    for name, default in LATER_OPTIONS.items():
        if settings[name] == default:
            del settings[name]
    if options.kind != "text":
        settings["text_tokenizer"] = None  # it counts tokens and changes no shard
    elif options.text_tokenizer is not None:
        settings["text_tokenizer_sha256"] = file_sha256(TextTokenizer(options.text_tokenizer).path)
    return settings


def _write_part(
    options: ShardOptions, records: Iterator[list[Record]], labels: list[str] | None, lock: FolderLock
) -> SampleReport:
    """Write the missing shards of a part, and the list of labels. The caller holds the part's lock."""
    with naming_write_errors(options.out), lock.plan():
        check_plan(options.out, plan_settings(options), lock)
        if labels is not None:
            name, content = label_list(options.kind, labels)
            write_text_atomically(options.out / name, content)
        finished_part(options.out, options.part).unlink(missing_ok=True)
    listing, num_blocks = hashlib.sha256(), 0
    shards: list[str] = []
    under_way: set[Future[None]] = set()
    with worker_pool(options.num_workers) as workers, progress_bar("records") as progress:
        for number, block in enumerate(records):
            progress.update(len(block))
            digest = block_digest(block, options.kind)
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
    with naming_write_errors(options.out), lock.plan():  # if two parts end at once, the second one merges
        write_text_atomically(finished_part(options.out, options.part), f"{num_blocks} {listing.hexdigest()}\n")
        if not unfinished_parts(options.out):
            return merge_parts(options)
    report = SampleReport()
    for shard in shards:
        report.add(load_scan(scan_path(options.out, shard)).report)
    return report


def merge_parts(options: ShardOptions) -> SampleReport:
    """Write the index of all parts. Raises ValueError if the source changed between them."""
    listings = {finished_part(options.out, part).read_text() for part in range(options.num_parts)}
    if len(listings) > 1:
        raise ValueError(f"{options.source} has changed between the parts of {options.out}; write all parts again")
    names = [f"{number:06d}.tar" for number in range(int(listings.pop().split()[0]))]
    scans = [scan_path(options.out, name) for name in names]
    text_length = options.text_length if options.kind == "text" else 0
    report = merge_scans(
        options.out, options.kind, names, scans, deduplicate=options.deduplicate, text_length=text_length
    )
    for path in (*options.out.glob("*.tar.*.partial"), *(options.out / SCANS_NAME).glob("*.npz.*.partial")):
        path.unlink(missing_ok=True)  # left by killed writers
    for path in options.out.glob("*.tar"):
        if path.name not in names:  # left from a longer source
            path.unlink(missing_ok=True)
            scan_path(options.out, path.name).unlink(missing_ok=True)
    return report


def write_block(shard: str, block: list[Record], digest: str, options: ShardOptions) -> None:
    """Write one shard, in a worker."""
    split = None if options.source.startswith(DRAWN) else options.split  # decided by the scene's composition
    records: Iterable[Record] = block
    report = SampleReport()
    if options.kind == "text":
        assert options.text_tokenizer is not None
        documents = []
        for record in block:
            try:
                text = checked_text(record)
                if split is None or is_in_split(record, options.keep.fraction(options.kind), split):
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


def is_written(out: Path, shard: str, digest: str) -> bool:
    """Return whether a shard was made from this block and is as it was scanned, or is known to be empty."""
    try:
        scan = load_scan(scan_path(out, shard))
        return scan.block == digest and (scan.num_bytes == 0 or scan.origin == file_origin(out / shard))
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main()
