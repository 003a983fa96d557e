"""Sources: whatever their bytes, they give records or are refused in one sentence."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import random
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.shards.writer import SampleFilter, sample_members
from data_pipeline.sources.readers import SourceOptions, read_records
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case

MAX_RECORDS = 500
KEEP = SampleFilter(held_out_fraction=0)


def make_case(folder: Path) -> Case:
    files = _files()
    contents = tuple(content for _, _, content in files)

    def case(rng: random.Random, folder: Path) -> str:
        kind, name, content = rng.choice(files)
        path = folder / name
        path.write_bytes(mutated(content, rng, contents))
        source = folder if rng.random() < 0.2 else path
        kept = skipped = 0
        try:
            for record in itertools.islice(read_records(kind, str(source), SourceOptions()), MAX_RECORDS):
                try:
                    sample_members(record, kind, KEEP, None)
                    kept += 1
                except BadSampleError:
                    skipped += 1
        except ValueError:
            return "refused"
        return "kept" if kept else "all skipped" if skipped else "empty"

    return case


def _files() -> list[tuple[Kind, str, bytes]]:
    """Return small undamaged sources in every format."""
    words = "a red circle at the top; it's <b>big</b> &amp; round. caf\u00e9 \u96ea\n"
    text = (words * 20).encode()
    wiki = f'<doc id="1" url="u" title="Red &amp; round">\nRed\n\n{words}</doc>\n'.encode() * 3
    lines = "\n".join(json.dumps({"text": words, "image": "x.png", "caption": words}) for _ in range(10)).encode()
    coco = json.dumps(
        {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(5)],
            "annotations": [{"image_id": n, "id": n, "caption": words} for n in range(5)],
        }
    ).encode()
    genome = json.dumps([{"id": n, "regions": [{"image_id": n, "phrase": words}]} for n in range(5)]).encode()
    karpathy = json.dumps(
        {"images": [{"filename": f"{n}.jpg", "split": "train", "sentences": [{"raw": words}]} for n in range(5)]}
    ).encode()
    table = pyarrow.table({"image": [b"x"] * 5, "caption": [words] * 5, "text": [words] * 5})
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    separated = "image,caption\n" + "".join(f'{n}.jpg,"a ""red"" circle, {n}"\n' for n in range(10))
    return [
        ("text", "a.txt", text),
        ("text", "a.txt", b"\xff\xfe" + words.encode("utf-16-le")),
        ("text", "wiki_00", wiki),
        ("text", "a.jsonl", lines),
        ("pair", "a.jsonl", lines),
        ("text", "a.txt.gz", gzip.compress(text)),
        ("text", "a.txt.bz2", bz2.compress(text)),
        ("text", "a.txt.xz", lzma.compress(text)),
        ("text", "a.xz", lzma.compress(tar.getvalue())),
        ("text", "a.tar", tar.getvalue()),
        ("text", "a.txt.zst", zstandard.compress(text)),
        ("pair", "captions.json", coco),
        ("pair", "regions.json", genome),
        ("pair", "dataset.json", karpathy),
        ("pair", "list.json", json.dumps([{"image": "x.png", "caption": words}] * 5).encode()),
        ("pair", "a.csv", separated.encode()),
        ("pair", "a.tsv", separated.replace(",", "\t").encode()),
        ("pair", "a.parquet", parquet.getvalue()),
        ("text", "a.parquet", parquet.getvalue()),
        ("image", "list.txt", b"a.png\nb.png\n"),
    ]
