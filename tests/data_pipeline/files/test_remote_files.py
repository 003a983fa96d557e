"""Shards behind a real HTTP server: the same batches as from the disk."""

import functools
import http.server
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.shards.index import read_index
from tests.support.tiny_run import TEXT_LENGTH, TinyData

PER_STEP = SamplesPerStep(images=4, pairs=8, texts=4)


class CountingHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers which shards were asked for."""

    fetched: list[str]

    def do_GET(self) -> None:
        if self.path.endswith(".tar"):
            self.fetched.append(self.path)
        super().do_GET()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server(tiny_data: TinyData) -> Iterator[tuple[str, list[str]]]:
    """URL of the data, and the shards that were fetched from it."""
    with serving(CountingHandler, tiny_data.folder) as url:
        yield url, CountingHandler.fetched


@contextmanager
def serving(handler: type[CountingHandler], folder: Path) -> Iterator[str]:
    """The URL of a folder, served while this lasts."""
    CountingHandler.fetched = []
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, functools.partial(handler, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def config(data: TinyData, root: str, cache_folder: Path) -> DataConfig:
    return DataConfig(
        images=(f"{root}/images",),
        pairs=(f"{root}/pairs",),
        texts=(f"{root}/texts",),
        text_tokenizer=data.folder / "text_tokenizer.spm",
        caption_length=20,
        text_length=TEXT_LENGTH,
        num_lanes=2,
        window_shards=1,
        cache_folder=cache_folder,
    )


def test_batches_are_those_of_the_disk_and_each_shard_is_fetched_once_for_all_ranks_and_workers(
    server: tuple[str, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    url, fetched = server
    remote = config(tiny_data, url, tmp_path / "cache")
    local = StepDataset(config(tiny_data, str(tiny_data.folder), tmp_path / "unused"), PER_STEP, 32, seed=0)
    ranks = [StepDataset(remote, PER_STEP, 32, 0, rank, 2) for rank in range(2)]
    assert ranks[0].fingerprints == local.fingerprints
    loaders = [step_batches(dataset, 3, 23, num_workers=2) for dataset in ranks]
    for step in range(3, 23):
        parts = [next(loader) for loader in loaders]
        assert [part.failure for part in parts] == ["", ""]
        whole = local[step]
        assert torch.equal(torch.cat([part.images[:2] for part in parts]), whole.images[:4])
        assert torch.equal(torch.cat([part.caption_ids for part in parts]), whole.caption_ids)
        assert torch.equal(torch.cat([part.text_ids for part in parts]), whole.text_ids)
    for loader in loaders:
        loader.close()  # type: ignore[attr-defined]
    num_shards = sum(len(read_index(tiny_data.folder / kind).shards) for kind in ("images", "pairs", "texts"))
    assert len(fetched) == len(set(fetched)) == num_shards
    assert not (tmp_path / "unused").exists()


def test_remote_shards_are_indexed_from_afar(
    server: tuple[str, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    url, _ = server
    with pytest.raises(ValueError, match="is remote; give --out"):
        index_shards(IndexOptions("pair", f"{url}/pairs"))
    index_shards(IndexOptions("pair", f"{url}/pairs", out=tmp_path / "index"))
    index, theirs = read_index(tmp_path / "index"), read_index(tiny_data.folder / "pairs")
    assert (index.folder, index.fingerprint) == (f"{url}/pairs", theirs.fingerprint)
    result = check_shards(CheckOptions(str(tmp_path / "index"), cache_folder=tmp_path / "cache"))
    assert result.report.num_kept == theirs.num_samples and not result.damaged


def test_a_remote_shard_that_changed_is_read_again_and_a_name_that_leads_outside_is_refused(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    class Listing(CountingHandler):
        """Lists a shard outside of its folder."""

        def list_directory(self, path: object) -> io.BytesIO:
            page = b'<a href="x/../../../../evil/pwn.tar">pwn</a>'
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            return io.BytesIO(page)

    folder = tmp_path / "pairs"
    shutil.copytree(tiny_data.folder / "pairs", folder)
    with serving(CountingHandler, tmp_path) as url:
        index_shards(IndexOptions("pair", f"{url}/pairs", out=tmp_path / "index"))
        before = read_index(tmp_path / "index")
        shutil.copy(folder / before.shards[-1].name, folder / before.shards[0].name)  # of another size
        index_shards(IndexOptions("pair", f"{url}/pairs", out=tmp_path / "index"))
        after = read_index(tmp_path / "index")
        assert after.shards[0].sha256 == before.shards[-1].sha256
    with serving(Listing, tmp_path) as url, pytest.raises((ValueError, OSError)):
        index_shards(IndexOptions("pair", f"{url}/other", out=tmp_path / "other"))
    assert not list(tmp_path.rglob("pwn*"))


def test_a_cache_that_cannot_hold_what_is_read_at_once_is_refused(
    server: tuple[str, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    small = replace(config(tiny_data, server[0], tmp_path / "cache"), cache_bytes=50_000)
    with pytest.raises(ValueError, match=r"lanes of a node take \d+ bytes, more than data.cache_bytes 50000; raise it"):
        StepDataset(small, PER_STEP, 32, seed=0)
