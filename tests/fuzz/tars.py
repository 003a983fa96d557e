"""Tars: every member is indexed or counted as skipped, or the shard is refused by name."""

import io
import random
import tarfile
from pathlib import Path

from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.shards.index import read_index
from data_pipeline.shards.index_writer import merge_scans
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.scan import save_scan, scan_path, scan_shard
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case

NAMES = (
    "a",
    "b",
    "a.b",
    "dir/a",
    "dir.x/b",
    "./c",
    "../out",
    "/root",
    "caf\u00e9",
    "x" * 120,
    "y" * 300,
    "",
    ".",
    "\x1b[2J",
)
EXTENSIONS = ("jpg", "JPG", "png", "webp", "txt", "1.txt", "json", "gif", "cls", "tar.gz", "")
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
TYPES = (*[tarfile.REGTYPE] * 12, tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
KINDS: tuple[Kind, ...] = ("image", "text", "pair")


def make_case(folder: Path) -> Case:
    def case(rng: random.Random, folder: Path) -> str:
        made = [_archive(rng) for _ in range(rng.choice((1, 1, 2)))]
        archives = [archive for archive, _ in made]
        content = b"".join(archives)
        is_damaged = rng.random() < 0.7
        if is_damaged:
            content = mutated(content, rng, tuple(archives))
        path = folder / "0.tar"
        path.write_bytes(content)
        kind = rng.choice(KINDS)
        try:
            scan = scan_shard(path, kind, "origin")
            if not is_damaged:  # no member is lost; a border of two archives may count
                assert scan.report.num_members - sum(num_members for _, num_members in made) in (0, len(made) - 1)
            save_scan(scan, scan_path(folder, "0.tar"))
            merge_scans(folder, kind, ["0.tar"], [scan_path(folder, "0.tar")])
        except ValueError as error:
            if is_damaged or "holds no sample" in str(error):
                return "refused"
            raise
        return _read(folder)

    return case


def _archive(rng: random.Random) -> tuple[bytes, int]:
    """Return an undamaged tar and the number of its members."""
    buffer, num_members = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(FORMATS)) as tar:
        for _ in range(rng.randint(0, 8)):
            member = tarfile.TarInfo(f"{rng.choice(NAMES)}.{rng.choice(EXTENSIONS)}")
            member.type = rng.choice(TYPES)
            content = rng.choice((b"", b"\xff\xd8\xff")) + rng.randbytes(rng.choice((0, 1, 511, 512, 513, 2000)))
            if member.isreg():
                member.size = len(content)
            else:
                member.linkname = rng.choice(NAMES)
            try:
                tar.addfile(member, io.BytesIO(content))
            except ValueError:  # a name that this format cannot hold
                continue
            num_members += 1
    return buffer.getvalue(), num_members


def _read(folder: Path) -> str:
    """Read every sample of the index as a run would."""
    index = read_index(folder)
    reader = SampleReader(index, 1 << 20)
    for sample in range(index.num_samples):
        try:
            if index.kind != "text":
                assert len(reader.image_bytes(sample))
            if index.kind != "image":
                reader.text(sample)
        except BadSampleError as error:
            if "bytes differ" in str(error):
                raise
    return "indexed"
