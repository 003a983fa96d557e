"""Cost of an index of 21 million pairs: opening it, and the first batch of a run that resumes at step 900,000.

21,000 shards of 1,000 pairs, all hard links to one tar.
"""

import io
import multiprocessing
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter

import psutil
from PIL import Image

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.shards.index import read_index
from data_pipeline.shards.index_writer import merge_scans
from data_pipeline.shards.scan import save_scan, scan_shard

NUM_SHARDS, PER_SHARD = 21_000, 1_000
RESUME_STEP = 900_000
PER_STEP = SamplesPerStep(images=0, pairs=1024, texts=0)
WORLD_SIZE = 16
"""Ranks of the simulated run; this one reads 64 pairs per step."""


def measure_large_index(folder: Path, tokenizer: Path, num_shards: int = NUM_SHARDS) -> dict[str, float]:
    """Return seconds to open and to the first batch, and growth of resident memory in MB, in a fresh process."""
    folder.mkdir()
    _write(folder, num_shards)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_open_and_resume, str(folder), tokenizer).result()


def _open_and_resume(folder: str, tokenizer: Path) -> dict[str, float]:
    own = psutil.Process()
    memory, start = own.memory_info().rss, perf_counter()
    num_samples = read_index(folder).num_samples
    figures = {
        "index_samples": num_samples,
        "index_open_seconds": perf_counter() - start,
        "index_open_mb": (own.memory_info().rss - memory) / 1e6,
    }
    memory, start = own.memory_info().rss, perf_counter()
    config = DataConfig((folder,), (folder,), (folder,), tokenizer)
    dataset = StepDataset(config, PER_STEP, image_size=224, seed=0, world_size=WORLD_SIZE)
    batch = next(step_batches(dataset, RESUME_STEP, RESUME_STEP + 1, num_workers=1))
    if batch.failure:
        raise ValueError(f"no batch after resuming: {batch.failure}")
    figures["resume_seconds"] = perf_counter() - start
    figures["resume_mb"] = (own.memory_info().rss - memory) / 1e6
    return figures


def _write(folder: Path, num_shards: int) -> None:
    names = [f"{number:06d}.tar" for number in range(num_shards)]
    first = folder / names[0]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(buffer, "JPEG")
    with tarfile.open(first, "w") as tar:
        for number in range(PER_SHARD):
            for extension, content in (("jpg", buffer.getvalue()), ("txt", b"a gray square")):
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for name in names[1:]:
        os.link(first, folder / name)
    scan = folder / "scan.npz"
    save_scan(scan_shard(first, "pair", origin=""), scan)
    merge_scans(folder, "pair", names, [scan] * num_shards)
