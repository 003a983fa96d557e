"""Bytes of data and checkpoints, compared with files of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.checkpoints.saver import outdated
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import OptimizerConfig, config_from_json
from pretrain.planning.memory import count_pieces
from pretrain.planning.storage import checkpoint_bytes, checkpoint_lines, data_lines, kept_checkpoints, size_in_words
from pretrain.recipes import RECIPES
from tests.support.memory_ranks import memory_config
from tests.support.tiny_run import TinyData


def config_of(run: Path) -> PretrainConfig:
    return config_from_json(PretrainConfig, (run / "config.json").read_text())


def test_a_checkpoint_has_the_bytes_of_the_files_that_deepspeed_writes(two_ranks: Path) -> None:
    (folder,) = (two_ranks / "checkpoints").iterdir()
    states = [path.stat().st_size for path in folder.glob("*.pt")]
    counted = checkpoint_bytes(config_of(two_ranks), memory_config(3), 2)
    names_and_shapes = 200_000  # of so small a network; its states have as many bytes for a network of any width
    assert counted < sum(states) < counted + names_and_shapes and counted > names_and_shapes


def without_average() -> OptimizerConfig:
    return replace(RECIPES["demo"]().optimizer, ema_decay=0.0)


def test_stages_1_and_2_save_the_weights_once_more() -> None:
    config = replace(RECIPES["demo"](), precision="bfloat16", optimizer=without_average())
    total = count_pieces(config, 0).total
    assert total % 2 == 0
    assert checkpoint_bytes(config, memory_config(3), 2) == 12 * total
    assert checkpoint_bytes(config, memory_config(1), 2) == checkpoint_bytes(config, memory_config(2), 2) == 14 * total
    zero = memory_config(2)["zero_optimization"] | {"offload_optimizer": {"device": "cpu"}}
    assert checkpoint_bytes(config, {"zero_optimization": zero}, 2) == 14 * total
    averaged = replace(config, optimizer=replace(config.optimizer, ema_decay=0.999))
    assert checkpoint_bytes(averaged, memory_config(3), 2) == 16 * total


@pytest.mark.parametrize(
    ("num_steps", "save", "keep", "every"),
    [
        (1000, 100, 3, 0),
        (1000, 100, 2, 400),
        (1050, 100, 1, 250),
        (300, 100, 5, 100),
        (50, 100, 3, 0),
        (990, 30, 2, 45),
    ],
)
def test_the_checkpoints_at_once_are_those_that_the_saver_leaves(
    num_steps: int, save: int, keep: int, every: int
) -> None:
    config = replace(
        RECIPES["demo"](), num_steps=num_steps, save_every_steps=save, keep_checkpoints=keep, keep_every_steps=every
    )
    folders: dict[Path, int | None] = {}
    most = 0
    for step in sorted({*range(save, num_steps + 1, save), num_steps}):
        folders[Path(f"step_{step:08d}")] = step  # written beside those before it
        most = max(most, len(folders))
        for gone in outdated(folders, config):
            del folders[gone]
    assert sum(kept_checkpoints(config)) + 1 == most


def test_lines_on_checkpoints_multiply_their_bytes() -> None:
    config = replace(RECIPES["demo"](), num_steps=1000, save_every_steps=100, keep_checkpoints=2, keep_every_steps=400)
    config = replace(config, optimizer=without_average())
    one, at_once, all_of_them = checkpoint_lines(config, memory_config(3), 2)
    assert one.split()[:4] == ["a", "checkpoint", "26.0", "MB"]  # 12 bytes of 2,168,080 parameters
    assert at_once.endswith("4  counted: the 2 newest, 1 of every 400 steps, the one under way")
    assert all_of_them.split()[2:4] == ["104.1", "MB"]
    best = replace(config, evaluation=replace(config.evaluation, best="loss/total"))
    _, at_once, _ = checkpoint_lines(best, memory_config(3), 2)
    assert at_once.endswith("5  counted: the 2 newest, 1 of every 400 steps, the best by loss/total, the one under way")


def test_shards_that_are_there_are_counted_and_others_are_named(tiny_data: TinyData) -> None:
    config, folder = RECIPES["demo"](), tiny_data.folder
    data = replace(
        config.data,
        images=(f"{folder / 'images'}=2", str(folder / "pairs")),
        pairs=("data/none",),
        texts=("s3://bucket/texts",),
    )
    found = replace(config, data=data)
    images, second, missing, remote, total = data_lines(found)
    on_disk = [
        sum(path.stat().st_size for path in (folder / kind).iterdir() if path.suffix in (".tar", ".npy"))
        for kind in ("images", "pairs")
    ]
    assert images.endswith("counted: 40 samples in 5 shards") and "counted: 40 samples" in second
    assert "unknown  not counted: shard folder data/none does not exist" in missing
    assert "at a URL  not counted; a node caches up to 200.0 GB" in remote
    assert float(total.split()[1]) == pytest.approx(sum(on_disk) / 1000, rel=0.01)  # kB; a header of each index more
    assert total.endswith("counted: 2 of 4 sources")


def test_sizes_have_units_that_suit_them() -> None:
    assert [size_in_words(size) for size in (1500, 2_500_000, 27_300_700_000, 4 * 10**12)] == [
        "1.5 kB", "2.5 MB", "27.3 GB", "4.0 TB",
    ]  # fmt: skip
