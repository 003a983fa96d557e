"""Means of the weights of several checkpoints. CPU, seconds."""

import shutil
from pathlib import Path

import pytest
import torch

from model.pretrained import load_network
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.run_config import WeightKind
from pretrain.conversion.convert import convert, report
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.verify import TOLERANCE
from tests.support.crafted import copy_of_run, seal
from tests.support.separate_vectors import separate_vectors


def changed_copy(run_dir: Path, copy: Path, factor: float) -> Path:
    """Copy a run of ZeRO-3 and multiply its weights and their average; return the copy's checkpoint."""
    folder = copy_of_run(run_dir, copy)
    for path in folder.glob("*optim_states.pt"):
        state = torch.load(path, weights_only=False)  # written by the run of this test
        partitions = state["optimizer_state_dict"]
        for flat in partitions["fp32_flat_groups"]:
            flat.data.mul_(factor)
        for of_group in partitions["optimizer_state_dict"]["state"].values():
            of_group["ema"].mul_(factor)
        torch.save(state, path)
    seal(folder)
    return folder


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_soup_is_the_mean_of_all_checkpoints_whatever_the_order_of_their_files(
    weights: WeightKind, two_ranks: Path, tmp_path: Path
) -> None:
    second, third = (changed_copy(two_ranks, tmp_path / name, factor) for name, factor in (("b", 1.5), ("c", 3.0)))
    separate_vectors(third)
    options = ConvertOptions(
        two_ranks,
        tmp_path / "out",
        "safetensors",
        weights=weights,
        average=(second, tmp_path / "c"),
    )
    converted = convert(options)
    assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
    expected = dict(checkpoint_weights(find_checkpoint(two_ranks), weights=weights))
    found = load_network(tmp_path / "out").state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name] * (5.5 / 3), rtol=1e-6, atol=1e-7)
    assert converted.card["average_of"] == [f"{two_ranks.name}/step_00000008", "b/step_00000008", "c/step_00000008"]
    assert "of 3 checkpoints, averaged: " in (tmp_path / "out" / "README.md").read_text()
    assert "the mean of " in report(converted)


def test_checkpoints_that_cannot_be_averaged_are_refused(two_ranks: Path, tmp_path: Path) -> None:
    own = find_checkpoint(two_ranks).folder

    def refused(*others: Path, **options: str) -> str:
        with pytest.raises(ValueError) as error:
            convert(ConvertOptions(own, tmp_path / "out", average=others, **options))  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert refused(two_ranks) == f"{own} is given twice; leave one of them out"
    tokenizer = changed_copy(two_ranks, tmp_path / "tokenizer", 1.0)
    (tokenizer / "beit3.spm").write_bytes(b"another")
    seal(tokenizer)
    assert refused(tokenizer) == (
        f"{tokenizer} and {own} cannot be averaged: their text tokenizers differ; give checkpoints of one network and "
        "text tokenizer"
    )
    assert refused(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'} does not exist; give a run folder")
    assert refused(tokenizer, from_="safetensors") == (
        "--average is for our checkpoints; leave it out for --from safetensors"
    )
    shutil.rmtree(tmp_path / "tokenizer")


def test_a_checkpoint_without_an_average_is_refused(two_ranks: Path, tmp_path: Path) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    for path in folder.glob("*optim_states.pt"):
        state = torch.load(path, weights_only=False)
        for of_group in state["optimizer_state_dict"]["optimizer_state_dict"]["state"].values():
            del of_group["ema"]
        torch.save(state, path)
    seal(folder)
    with pytest.raises(ValueError, match=f"{folder} has no moving average of the weights, which optimizer.ema_decay"):
        convert(ConvertOptions(folder, tmp_path / "out", weights="ema"))
