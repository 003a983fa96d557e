"""Positions of parameters in the flat tensors of ranks: partitioned as by DeepSpeed, and joined again."""

from math import prod
from pathlib import Path

import pytest
import torch

from model.masked_data_model import MaskedDataModel
from model.stacked_vectors import NOTHING_STACKED, Row, stacked_rows
from pretrain.checkpoints.partitions import (
    Partitions,
    Place,
    model_file,
    saved_parameters,
    saved_shapes,
    unstacked,
)
from pretrain.checkpoints.partitions import _places_in_a_row as in_a_row
from pretrain.checkpoints.partitions import _places_in_parts as in_parts
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.engine.optimizer import MOMENTS

SHAPES = {"a": torch.Size((3, 5)), "b": torch.Size((1,)), "c": torch.Size((2, 2, 2))}
WHOLE = {name: torch.arange(prod(shape)).view(shape) + 100 * n for n, (name, shape) in enumerate(SHAPES.items())}


def joined(place: Place, flats: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([flats[rank].narrow(0, first, length) for rank, first, length in place.pieces]).view(place.shape)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_stage_3_gives_every_rank_an_equal_part_of_each_parameter(num_ranks: int) -> None:
    flats = [
        torch.cat([_padded(whole.flatten(), num_ranks).chunk(num_ranks)[rank] for whole in WHOLE.values()])
        for rank in range(num_ranks)
    ]
    places = in_parts(4, SHAPES, [flat.numel() for flat in flats], [0, 0, 0])
    assert all(place.group == 4 and torch.equal(joined(place, flats), WHOLE[name]) for name, place in places.items())
    with pytest.raises(KeyError, match="weights per rank in group 4"):
        in_parts(4, SHAPES, [flat.numel() + 1 for flat in flats], [0, 0, 0])


def _padded(flat: torch.Tensor, num_ranks: int) -> torch.Tensor:
    return torch.cat([flat, flat.new_zeros(-len(flat) % num_ranks)])


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("paddings", [[0, 0, 0], [1, 3, 0]])
def test_stages_1_and_2_cut_a_row_of_parameters_into_equal_parts(num_ranks: int, paddings: list[int]) -> None:
    row = torch.cat(
        [torch.cat([whole.flatten(), torch.zeros(n)]) for whole, n in zip(WHOLE.values(), paddings, strict=True)]
    )
    flats = list(_padded(row, 2 * num_ranks).chunk(num_ranks))
    places = in_a_row(0, SHAPES, [flat.numel() for flat in flats], paddings)
    assert all(torch.equal(joined(place, flats), WHOLE[name]) for name, place in places.items())
    with pytest.raises(KeyError, match="weights in group 0"):
        in_a_row(0, SHAPES, [flat.numel() + 2 for flat in flats], paddings)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_rows_of_a_stacked_parameter_have_places_of_their_own(num_ranks: int) -> None:
    vectors = torch.arange(100, 113)
    flats = list(_padded(torch.cat([torch.arange(5), vectors]), 2 * num_ranks).chunk(num_ranks))
    shapes = {"a": torch.Size((5,)), "vectors": torch.Size((13,))}
    rows = {"vectors": [Row("x", 0, 2), Row("y", 2, 1), Row("z", 3, 10)]}
    places = unstacked(in_a_row(0, shapes, [flat.numel() for flat in flats], [0, 0]), rows)
    assert {name: joined(place, flats).tolist() for name, place in places.items()} == {
        "a": [0, 1, 2, 3, 4], "x": [100, 101], "y": [102], "z": list(range(103, 113)),
    }  # fmt: skip
    of_another_network = {"vectors": Place(0, torch.Size((12,)), [(0, 0, 12)])}
    assert unstacked(of_another_network, rows) == of_another_network


def test_the_files_of_a_run_are_read_in_any_number_of_mappings(two_ranks: Path) -> None:
    (folder,) = (two_ranks / "checkpoints").glob("step_*")
    model = MaskedDataModel(find_checkpoint(folder).config.model)
    rows = stacked_rows(model)
    names = list(Partitions(folder, rows).places)
    assert set(names) == set(model.state_dict())
    assert {name for group in saved_shapes(folder) for name in group} == dict(model.named_parameters()).keys()
    once = dict(saved_parameters(folder, rows, MOMENTS))
    often = dict(saved_parameters(folder, rows, MOMENTS, chunk_bytes=1))
    assert list(once) == list(often) == names
    assert all(torch.equal(a, b) for name in names for a, b in zip(once[name], often[name], strict=True))
    assert any(moment.any() for moment in once["mlm_head.weight"])


def test_a_folder_without_the_file_of_a_rank_is_refused(two_ranks: Path, tmp_path: Path) -> None:
    (folder,) = (two_ranks / "checkpoints").glob("step_*")
    assert (folder / model_file(3, 1)).is_file()
    (tmp_path / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(ValueError, match="lacks the optimizer states of a rank; give another checkpoint"):
        Partitions(tmp_path, NOTHING_STACKED)
    with pytest.raises(ValueError, match="lacks the model states of rank 0; give another checkpoint"):
        saved_shapes(tmp_path)
