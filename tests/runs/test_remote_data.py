"""Shards on a real HTTP server: the same batches as from disk, and no password in any message."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.files.remote_files import (
    NUM_ATTEMPTS,
    is_remote,
    list_remote_files,
    local_copy,
    read_remote_file,
)
from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.config import DataConfig, SamplesPerStep, parse_source
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import read_index
from tests.support.data_configs import PER_STEP, remote_config
from tests.support.http_servers import Hostile
from tests.support.tiny_run import TinyData


def test_batches_are_those_of_the_disk_and_each_shard_is_fetched_once_for_all_ranks_and_workers(
    server: tuple[str, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    url, fetched = server
    remote = remote_config(tiny_data, url, tmp_path / "cache")
    local = StepDataset(remote_config(tiny_data, str(tiny_data.folder), tmp_path / "unused"), PER_STEP, 32, seed=0)
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


SECRETS = ("hunter2", "s3cr3t", "AKIA1234")


def refusals(url: str, tmp_path: Path) -> Iterator[str]:
    """Yield the messages of everything that reads a URL."""
    cache = ShardCache(tmp_path / "cache", 10**6)
    data = DataConfig(images=(url,), num_lanes=1, cache_folder=tmp_path / "cache")
    actions = [
        lambda: read_remote_file(url),
        lambda: list_remote_files(url),
        lambda: local_copy(url).__enter__(),
        lambda: cache.fetch(url, 5, "0" * 64),
        lambda: cache.fetch(url, 10**9, "0" * 64),
        lambda: cache.fetch(url, 0, "0" * 64),
        lambda: read_index(url),
        lambda: read_index(url, cache),
        lambda: index_shards(IndexOptions("pair", url)),
        lambda: index_shards(IndexOptions("pair", url, out=tmp_path / "index")),
        lambda: check_shards(CheckOptions(url, cache_folder=tmp_path / "cache")),
        lambda: StepDataset(data, SamplesPerStep(1, 0, 0), 8, 0),
        lambda: parse_source(f"{url}=-1"),
        lambda: is_remote(url.replace("http", "gopher")),
    ]
    for action in actions:
        with pytest.raises((ValueError, OSError)) as raised:
            action()
        error: BaseException | None = raised.value
        while error is not None:  # all that a traceback would print
            yield str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("status", [403, 404, 500, 302])
def test_no_message_repeats_a_password_or_a_signature(status: int, hostile: Hostile, tmp_path: Path) -> None:
    class Always(dict[str, tuple[int, dict[str, str], bytes | None]]):
        def get(self, path: str, default: object = None) -> Any:
            return status, {"Location": "http://user:hunter2@evil/?sig=s3cr3t"}, b""

    hostile.answers = Always()
    with_secrets = hostile.url.replace("http://", "http://user:hunter2@") + "/x?X-Amz-Signature=s3cr3t&id=AKIA1234"
    messages = list(refusals(with_secrets, tmp_path))
    assert len(messages) >= 14
    assert not [message for message in messages if any(secret in message for secret in SECRETS)]
    assert sum("***@127.0.0.1" in message for message in messages) >= 10


def test_reports_and_figures_of_a_run_name_its_sources_without_their_passwords(
    served: Hostile, tiny_data: TinyData, tmp_path: Path
) -> None:
    url = f"{served.url.replace('http://', 'http://user:hunter2@')}/pairs"
    data = DataConfig(
        pairs=(url,),
        text_tokenizer=tiny_data.folder / "text_tokenizer.spm",
        num_lanes=1,
        cache_folder=tmp_path / "cache",
    )
    dataset = StepDataset(data, SamplesPerStep(0, 4, 0), 32, 0)
    assert not dataset[0].failure
    shown = [*dataset.describe(), json.dumps(dataset.seen(5)), dataset.name("pair", 0, 3)]
    assert not [text for text in shown if "hunter2" in text] and all("***@127.0.0.1" in text for text in shown)
    assert all("Authorization" in headers for headers in served.headers)
    assert NUM_ATTEMPTS and not [name for name in os.listdir(tmp_path / "cache") if "hunter2" in name]
