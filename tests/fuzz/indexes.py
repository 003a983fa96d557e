"""Indexes: a damaged or hostile one is refused in a sentence, or each of its samples is read or reported as bad."""

import hashlib
import json
import random
import shutil
from pathlib import Path

from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.index import INDEX_NAME, read_index
from data_pipeline.shards.reader import SampleReader, ShardMismatchError
from data_pipeline.shards.scan import SCANS_NAME, load_scan
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case


def make_case(shared: Path) -> Case:
    original = shared / "pairs"
    write_shards(ShardOptions("pair", "scenes:24", original, samples_per_shard=8, num_workers=1))

    def case(rng: random.Random, folder: Path) -> str:
        copy = folder / "pairs"
        shutil.copytree(original, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        damaged = rng.choice(files)
        damaged.write_bytes(mutated(damaged.read_bytes(), rng, tuple(path.read_bytes() for path in files[:2])))
        if rng.random() < 0.5:
            _make_consistent(copy)
        for scan in sorted((copy / SCANS_NAME).glob("*.npz")):
            try:
                load_scan(scan)
            except FileNotFoundError:  # a missing scan is made again
                continue
        return _read(copy)

    return case


def _make_consistent(folder: Path) -> None:
    """Make the header contain the checksum of the records, as an attacker would."""
    try:
        header = json.loads((folder / INDEX_NAME).read_bytes())
        (records,) = folder.glob("samples-*.npy")
        content = records.read_bytes()
        header["records_sha256"] = hashlib.sha256(content).hexdigest()
        header["records_bytes"] = len(content)
        header["records"] = f"samples-{header['records_sha256'][:16]}.npy"
        records.rename(folder / header["records"])
        (folder / INDEX_NAME).write_text(json.dumps(header))
    except (ValueError, TypeError, KeyError):  # the header itself is damaged
        return


def _read(folder: Path) -> str:
    try:
        index = read_index(folder)
    except (ValueError, OSError):
        return "refused"
    reader, outcome = SampleReader(index, 1 << 20), "read"
    for sample in range(min(index.num_samples, 100)):
        try:
            reader.key(sample)
            reader.image_bytes(sample)
            reader.text(sample)
        except BadSampleError:
            outcome = "bad samples"
        except (ShardMismatchError, OSError):
            return "refused later"
    return outcome
