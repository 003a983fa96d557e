"""Indexes that are missing, damaged, hostile or written by older code."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import damaged_records, read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.scan import load_scan, save_scan
from tests.support.http_servers import Hostile, changed_index
from tests.support.shard_files import GOOD, SIZE, indexed, pair_dataset
from tests.support.tiny_run import TinyData


@pytest.mark.parametrize(
    "damage", ["records cut", "of another kind", "shard outside", "records outside", "a list", "negative"]
)
def test_a_damaged_index_is_refused(damage: str, good_pairs: Path, tiny_data: TinyData) -> None:
    header = (good_pairs / "index.json").read_text()
    if damage == "records cut":
        os.truncate(next(good_pairs.glob("samples-*.npy")), 300)
    changed, message = {
        "records cut": (header, "index of .* is damaged"),
        "of another kind": (header.replace('"pair"', '"text"'), "holds shards of kind 'text', not 'pair'"),
        "shard outside": (header.replace('"0.tar"', '"../0.tar"'), "lies outside of its folder"),
        "records outside": (header.replace('"samples-', '"../samples-'), "names '../samples-.*' as its records"),
        "a list": ("[1, 2]", "index of .* is damaged"),
        "negative": (
            header.replace('"num_samples": 4', '"num_samples": -4'),
            "shards.0.num_samples: Input should be greater",
        ),
    }[damage]
    (good_pairs / "index.json").write_text(changed)
    with pytest.raises(ValueError, match=message):
        pair_dataset(good_pairs, tiny_data)


def test_an_index_of_the_code_before_tasks_is_read(good_pairs: Path) -> None:
    """Its files are written here as that code wrote them; indexes of pretraining are still the same."""
    index = json.loads((good_pairs / "index.json").read_text())
    records = np.load(good_pairs / index["records"])
    member = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")]
    before = np.dtype([("key", records.dtype["key"]), ("shard", "<u4"), ("image", member), ("text", member)])
    assert records.dtype == before and index["version"] == 2 and index["kind"] == "pair"
    names = "version kind num_samples shard_folder records records_bytes records_sha256 text_length skipped shards"
    assert list(index) == [*names.split(), "caption_key"]
    del index["caption_key"]  # as the first indexes of version 2
    (good_pairs / "index.json").write_text(json.dumps(index))
    reader = SampleReader(read_index(good_pairs), 1 << 20)
    assert reader.texts(3) == ("a circle",) and reader.image_bytes(3) == GOOD


@pytest.mark.parametrize(
    "source", ["pipe:cat /etc/passwd", "pipe://cat", "file::pipe://x", "memory://x", "simplecache::s3://bucket/x"]
)
def test_commands_and_other_protocols_are_refused(source: str, good_pairs: Path, tiny_data: TinyData) -> None:
    with pytest.raises(ValueError, match="is neither a path nor a plain URL of s3"):
        DataConfig((), (source,), (), tiny_data.folder / "text_tokenizer.spm")
    header = (good_pairs / "index.json").read_text()
    (good_pairs / "index.json").write_text(header.replace('"shard_folder": ""', f'"shard_folder": "{source}"'))
    with pytest.raises(ValueError, match="is neither a path nor a plain URL of s3"):
        read_index(good_pairs)


def test_a_missing_folder_is_refused(good_pairs: Path, tiny_data: TinyData) -> None:
    shutil.rmtree(good_pairs)
    with pytest.raises(ValueError, match="does not exist; write it with"):
        read_index(good_pairs)
    config = DataConfig((), (), (), tiny_data.folder / "text_tokenizer.spm")
    with pytest.raises(ValueError, match="4 pairs per step need a source; set data.pairs"):
        StepDataset(config, SamplesPerStep(0, 4, 0), SIZE, seed=0)
    for entry in ("x=0", "x=-1"):
        with pytest.raises(ValueError, match="must be positive"):
            replace(config, pairs=(entry,))


def test_a_flipped_bit_in_the_records_is_found_before_any_sample_is_read(pairs: Path) -> None:
    (path,) = pairs.glob("samples-*.npy")
    content = bytearray(path.read_bytes())
    content[-40] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"index of {pairs} is damaged \({path.name} differs from its checksum\)"):
        read_index(pairs)


@pytest.mark.parametrize("column", ["shard", "offset", "size"])
def test_records_that_lead_out_of_their_shards_are_refused_and_harm_no_reader(column: str, pairs: Path) -> None:
    index = read_index(pairs)
    records = np.array(index.records)
    field = records["image"][column] if column != "shard" else records["shard"]
    field[1] = 2**64 - 1 if column == "offset" else 2**32 - 1
    object.__setattr__(index, "records", records)
    assert damaged_records(index, None)
    reader = SampleReader(index, 2**33)
    assert reader.shard_name(1) == f"{pairs}/0.tar" and reader.neighbor(1) == 2
    if column != "shard":
        with pytest.raises(BadSampleError, match="member lies outside of its shard"):
            reader.image_bytes(1)


def damages_of(content: bytes) -> list[bytes]:
    generator = np.random.default_rng(0)
    damaged = [b"", content[:1], content[: len(content) // 2], content[:-1], b"\0" * len(content), b"[1]", b"\xff\xfe"]
    for _ in range(60):
        changed = bytearray(content)
        changed[generator.integers(len(content))] = generator.integers(256)
        damaged.append(bytes(changed))
    return damaged


@contextlib.contextmanager
def printable_problem() -> Iterator[None]:
    """Expect one sentence if there is a problem: not every flipped bit of index.json matters."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not str(error).isprintable():
            raise AssertionError(f"more than one sentence: {error!r}") from error


@pytest.mark.parametrize("name", ["index.json", "samples-*.npy", ".index/1.npz"])
def test_a_damaged_file_of_an_index_is_reported_in_one_sentence_or_written_again(name: str, pairs: Path) -> None:
    (path,) = pairs.glob(name)
    content, fingerprint = path.read_bytes(), read_index(pairs).fingerprint
    for damaged in damages_of(content):
        path.write_bytes(damaged)
        with contextlib.suppress(FileNotFoundError) if path.suffix == ".npz" else printable_problem():
            load_scan(path) if path.suffix == ".npz" else read_index(pairs)
    indexed("pair", pairs)
    assert read_index(pairs).fingerprint == fingerprint


def test_a_pipe_or_a_folder_in_place_of_an_index_is_refused(pairs: Path) -> None:
    (records,) = pairs.glob("samples-*.npy")
    for path in (records, pairs / "index.json"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ValueError, match="is not a regular file; index the folder again"):
            read_index(pairs)


def test_scans_and_indexes_of_older_code_are_read(pairs: Path) -> None:
    header = json.loads((pairs / "index.json").read_text())
    del header["caption_key"]
    (pairs / "index.json").write_text(json.dumps(header))
    assert read_index(pairs).num_samples == 6
    path = pairs / ".index" / "0.npz"
    with np.load(path) as arrays:
        old = json.loads(str(arrays["header"]))
        old = {name: old[name] for name in ("kind", "origin", "block", "num_bytes", "sha256")} | {
            "report": old["report"][:3]
        }
        records, hashes = arrays["records"], arrays["hashes"]
    np.savez(path, header=np.array(json.dumps(old)), records=records, hashes=hashes)
    scan = load_scan(path)
    assert scan.version == 1 and scan.report.num_kept == 3 and not scan.report.num_members
    save_scan(scan, path)
    assert load_scan(path).version == 1
    assert indexed("pair", pairs).num_members == 12  # scanned again, as older code did not count everything
    assert load_scan(path).version == 2


NPY_HEADER = np.lib.format.magic(1, 0) + b"\x76\x00"


@pytest.mark.parametrize(
    "elsewhere",
    [
        *("/etc", "../pairs", "file:///etc", "http://169.254.169.254/latest", "s3://bucket/x", "{url}/pairsecret"),
        *("{url}", "{url}/pairs/../secret", "{url}/pairs/a/%2E%2e/../b", "{url}/pairs/%2e./secret"),
    ],
)
def test_a_remote_index_names_no_shards_outside_of_its_own_url(elsewhere: str, served: Hostile, tmp_path: Path) -> None:
    changed_index(served, shard_folder=elsewhere.format(url=served.url))
    with pytest.raises(
        ValueError, match=f"the index of {served.url}/pairs names shards elsewhere, in .*index that loc"
    ):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))
    assert served.requests == ["/pairs/index.json"]


@pytest.mark.parametrize("name", ["../0.tar", "a/%2e%2E/0.tar", "/0.tar", "http://other/0.tar", "..\\0.tar"])
def test_a_remote_index_names_no_shard_outside_of_its_folder(name: str, served: Hostile, tmp_path: Path) -> None:
    shards = json.loads(served.answers["/pairs/index.json"][2] or b"")["shards"]
    changed_index(served, shards=[shard | {"name": name} for shard in shards])
    with pytest.raises(ValueError, match="lies outside of its folder; do not trust the origin of this index"):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))


def test_a_damaged_remote_index_is_reported_without_its_password(served: Hostile, tmp_path: Path) -> None:
    index = json.loads(served.answers["/pairs/index.json"][2] or b"")
    changed_index(served, shards=[shard | {"num_bytes": 1} for shard in index["shards"]])
    url = f"{served.url}/pairs".replace("://", "://user:QQQ@")
    with pytest.raises(ValueError, match=r"the index of http://\*\*\*@.*/pairs is damaged \(the image of") as raised:
        read_index(url, ShardCache(tmp_path / "cache", 10**8))
    assert "QQQ" not in str(raised.value)
    result = check_shards(CheckOptions(url, cache_folder=tmp_path / "cache"))
    assert [problem.partition(" (")[0] for problem in result.damaged] == [
        f"the index of {url.replace('user:QQQ', '***')} is damaged"
    ]


def test_a_remote_index_may_name_its_own_url_and_urls_below(served: Hostile, tmp_path: Path) -> None:
    for folder in (f"{served.url}/pairs", f"{served.url}/pairs/", f"{served.url}/pairs/below"):
        changed_index(served, shard_folder=folder)
        assert read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8)).folder == folder


@pytest.mark.parametrize("location", ["file:///etc", "memory://x", "file::s3://bucket/x", "pipe:cat /etc/passwd"])
def test_a_local_index_names_no_url_of_another_kind(location: str, tiny_data: TinyData, tmp_path: Path) -> None:
    shutil.copytree(tiny_data.folder / "pairs", tmp_path / "pairs")
    path = tmp_path / "pairs" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shard_folder": location}))
    with pytest.raises(ValueError, match="is neither a path nor a plain URL of"):
        read_index(tmp_path / "pairs")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_samples": 10**30},
        {"num_samples": -1},
        {"records_bytes": 2**63},
        {"text_length": -(10**18)},
        {"skipped": {"reason": 10**40}},
        {"records_sha256": "x" * 64},
        {"shards": [{"name": "0.tar", "num_samples": 2**60, "num_bytes": 2**70, "sha256": "0" * 64}]},
        {"shards": [{"name": "0.tar", "num_samples": 1, "num_bytes": 1, "sha256": "../../x"}]},
        {"records": "../samples-0123456789abcdef.npy"},
    ],
)
def test_absurd_numbers_in_an_index_are_refused(changes: dict[str, Any], served: Hostile, tmp_path: Path) -> None:
    changed_index(served, **changes)
    with pytest.raises(ValueError, match=f"the index of {served.url}/pairs is damaged .*; index the folder again"):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))
    assert served.requests == ["/pairs/index.json"]


@pytest.mark.parametrize(
    "records",
    [
        NPY_HEADER + b"{'descr': '|O', 'fortran_order': False, 'shape': (5,), }".ljust(117) + b"\n",
        NPY_HEADER + b"{'descr': '<i8', 'fortran_order': False, 'shape': (999999999,), }".ljust(117) + b"\n",
        NPY_HEADER + b"(" * 118,
        np.lib.format.magic(3, 0) + bytes(200),
        b"nothing",
    ],
)
def test_files_that_are_not_records_are_refused(records: bytes, served: Hostile, tmp_path: Path) -> None:
    checksum = hashlib.sha256(records).hexdigest()
    changed_index(served, records_bytes=len(records), records_sha256=checksum)
    name = json.loads(served.answers["/pairs/index.json"][2] or b"")["records"]
    served.answers[f"/pairs/{name}"] = (200, {}, records)
    with pytest.raises(ValueError, match=f"the index of {served.url}/pairs is damaged .*; index the folder again"):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))
