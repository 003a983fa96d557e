"""Networks and batches beyond the memory of a machine are refused before anything is allocated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.config import SamplesPerStep
from model.masked_data_model import MaskedDataModel
from pretrain.engine.machine_memory import check_batch_fits, check_buckets_fit, check_network_fits
from tests.support.launch import run_ranks
from tests.support.tiny import CONFIG


def test_a_network_beyond_the_memory() -> None:
    check_network_fits(lambda: MaskedDataModel(CONFIG))
    large = replace(CONFIG, dim=1_000_000, ffn_dim=10_000_000)
    with pytest.raises(ValueError, match=r"parameters, [\d,]+ GB in float32, more than the [\d,]+ GB of this machine"):
        check_network_fits(lambda: MaskedDataModel(large))
    largest = replace(large, dim=10_000_000, vocab_size=10_000_000, image_size=8192, patch_size=8192)
    with pytest.raises(ValueError, match="lower its sizes"):
        check_network_fits(lambda: MaskedDataModel(largest))


def test_a_bucket_beyond_the_memory() -> None:
    cpu, path = torch.device("cpu"), Path("ds.json")
    check_buckets_fit(path, {"stage": 3, "reduce_bucket_size": 5e8}, cpu)
    for name in ("reduce_bucket_size", "allgather_bucket_size"):
        with pytest.raises(ValueError, match=rf"zero_optimization.{name} to 1,000,000,000,000,000, 4,000,000 GB in"):
            check_buckets_fit(path, {name: 1e15}, cpu)


def test_a_batch_beyond_the_memory() -> None:
    check_batch_fits(SamplesPerStep(2048, 2048, 2048), 224, 2048 * 576, world_size=1)
    with pytest.raises(ValueError, match=r"a rank's part of a step of 1000000000 images and 4 texts takes [\d,]+ GB"):
        check_batch_fits(SamplesPerStep(10**9, 0, 4), 224, 100, world_size=2)
    with pytest.raises(
        ValueError, match="or lower images_per_step or the sizes"
    ):  # a visual tokenizer's run has no pairs
        check_batch_fits(SamplesPerStep(10**9, 0, 0), 224, 0, world_size=2)


def test_a_run_with_such_a_network_ends_with_2() -> None:
    ended = run_ranks(1, "pretrain.train", ["demo", "--model.ffn-dim", "10000000", "--model.dim", "960000"])
    assert ended.exit_codes == [2]
    assert ended.stderr[0].startswith("error: the network has ") and ended.stderr[0].count("\n") == 1
