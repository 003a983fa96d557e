"""The sources of a kind: mixed by weight, and refused if a run cannot use them."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.loading.config import SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from tests.support.data_configs import IMAGE_SIZE, PER_STEP, local_config, remote_config
from tests.support.tiny_run import TEXT_LENGTH, TinyData


def test_sources_are_mixed_by_weight_and_their_passes_are_counted(tiny_data: TinyData) -> None:
    folder = str(tiny_data.folder / "pairs")
    mixed = replace(local_config(tiny_data), pairs=(f"{folder}=3", f"{folder}/."))  # forty samples each
    dataset = StepDataset(mixed, PER_STEP, IMAGE_SIZE, seed=3)
    drawn = [dataset.kinds["pair"].locate(step, place)[0] for step in range(20) for place in range(8)]
    assert drawn.count(0) == 120 and drawn.count(1) == 40
    assert dataset.describe()[1] == f"pair: {folder} 40 samples 75%, {folder}/. 40 samples 25%"
    assert dataset.seen(20)["pair"] == {folder: 3.0, f"{folder}/.": 1.0}
    other = StepDataset(replace(mixed, pairs=(folder, f"{folder}/.")), PER_STEP, IMAGE_SIZE, seed=3)
    assert dataset.fingerprints["pair"] != other.fingerprints["pair"]


def test_passages_that_a_run_would_cut_are_refused(tiny_data: TinyData) -> None:
    with pytest.raises(
        ValueError, match=rf"passages of up to {TEXT_LENGTH} ids, of which data.text_length 16 would cut"
    ):
        StepDataset(replace(local_config(tiny_data), text_length=16), PER_STEP, IMAGE_SIZE, seed=3)


def test_folders_of_the_wrong_kind_and_odd_world_sizes_are_refused(tiny_data: TinyData) -> None:
    swapped = replace(local_config(tiny_data), images=(str(tiny_data.folder / "texts"),))
    with pytest.raises(ValueError, match="holds shards of kind 'text', not 'image'"):
        StepDataset(swapped, PER_STEP, IMAGE_SIZE, seed=3)
    with pytest.raises(ValueError, match="4 images per step must be a multiple of the 3 ranks"):
        StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, 3, 0, 3)


def test_lanes_that_a_kind_cannot_fill_are_refused_with_the_kind(tiny_data: TinyData) -> None:
    many = replace(local_config(tiny_data), num_lanes=3)
    with pytest.raises(ValueError, match=r"^4 images per step must be a multiple of data.num_lanes 3; change one$"):
        StepDataset(many, PER_STEP, IMAGE_SIZE, seed=3)
    with pytest.raises(ValueError, match=r"images holds \d+ images, fewer than data.num_lanes 80; lower it, or"):
        StepDataset(replace(many, num_lanes=80), SamplesPerStep(80, 0, 0), IMAGE_SIZE, seed=3)
    with pytest.raises(ValueError, match=r"^4 texts per step need a source; set data.texts$"):
        StepDataset(replace(local_config(tiny_data), texts=()), PER_STEP, IMAGE_SIZE, seed=3)


def test_a_batch_that_repeats_samples_causes_a_warning(tiny_data: TinyData) -> None:
    assert StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3).warnings() == []
    (warning,) = StepDataset(local_config(tiny_data), SamplesPerStep(4, 48, 4), IMAGE_SIZE, seed=3).warnings()
    expected = f"a step takes 48 pairs of {tiny_data.folder / 'pairs'}, which holds "
    assert warning.startswith(expected) and "a batch repeats samples; lower pairs_per_step, or add pairs" in warning


def test_a_cache_too_small_for_the_shards_read_at_once_is_refused(
    server: tuple[str, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    small = replace(remote_config(tiny_data, server[0], tmp_path / "cache"), cache_bytes=50_000)
    with pytest.raises(ValueError, match=r"lanes of a node take \d+ bytes, more than data.cache_bytes 50000; raise it"):
        StepDataset(small, PER_STEP, 32, seed=0)
