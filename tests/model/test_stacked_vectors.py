"""Norms and biases as one parameter: state dicts have them one by one. CPU, seconds."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.masked_data_model import MaskedDataModel
from model.stacked_vectors import Stack, register_vectors, rows_of_stacks, split_vectors, stacked_rows
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model

STACKS = (Stack("norm.{}.weight", ("a", "b"), 2), Stack("fc.{}.bias", ("a",), 3))


class Stacked(nn.Module):
    """A module with vectors, beside a matrix."""

    vectors: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self.stacks = STACKS
        register_vectors(self, STACKS)
        self.fc = nn.Linear(2, 3, bias=False)


def numbered() -> Stacked:
    module = Stacked()
    with torch.no_grad():
        module.vectors.copy_(torch.arange(7.0))
    return module


def test_the_rows_are_the_names_of_the_state_dict_and_views_of_the_parameter() -> None:
    module = numbered()
    state = module.state_dict()
    assert set(state) == {"fc.weight", "norm.a.weight", "norm.b.weight", "fc.a.bias"}
    assert [name for name, _ in module.named_parameters()] == ["vectors", "fc.weight"]
    assert [state[row.name].tolist() for row in rows_of_stacks(STACKS)] == [[0, 1], [2, 3], [4, 5, 6]]
    state["norm.b.weight"].fill_(9)
    assert module.vectors.tolist() == [0, 1, 9, 9, 4, 5, 6]
    assert stacked_rows(nn.Sequential(module))["0.vectors"][1].name == "0.norm.b.weight"


def test_new_weights_are_one_and_new_biases_zero() -> None:
    assert Stacked().vectors.tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_stacks_are_split_into_copies_whose_gradients_are_joined() -> None:
    module = numbered()
    weights, bias = split_vectors(module.vectors, STACKS)
    assert weights.tolist() == [[0, 1], [2, 3]] and bias.tolist() == [[4, 5, 6]]
    assert weights.is_contiguous() and bias.is_contiguous()
    assert weights.untyped_storage().data_ptr() != module.vectors.untyped_storage().data_ptr()
    (weights[1] * 2).sum().backward()  # the rest is not used, and has a gradient of zero
    assert module.vectors.grad is not None and module.vectors.grad.tolist() == [0, 0, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(("device", "assign"), [("cpu", False), ("cpu", True), ("meta", True)])
def test_a_state_dict_is_loaded_into_another_module(device: str, assign: bool) -> None:
    state = numbered().state_dict()
    with torch.device(device):
        other = Stacked()
    given = dict(state)
    other.load_state_dict(given, assign=assign)
    assert given.keys() == state.keys()
    assert other.vectors.tolist() == list(range(7)) and isinstance(other.vectors, nn.Parameter)
    assert other.vectors.requires_grad


def test_the_parameter_itself_is_loaded_too() -> None:
    """DeepSpeed's files, and what its zero_to_fp32 makes of them, have it."""
    other = Stacked()
    other.load_state_dict(dict(numbered().named_parameters()))
    assert other.vectors.tolist() == list(range(7))
    with pytest.raises(RuntimeError, match="size mismatch for vectors"):
        other.load_state_dict({"vectors": torch.zeros(6), "fc.weight": torch.zeros(3, 2)})


def test_wrong_names_and_shapes_are_reported_by_the_names_of_the_rows() -> None:
    def loading(changes: dict[str, Any], without: str = "") -> Stacked:
        module, state = numbered(), Stacked().state_dict()
        del state[without or "fc.weight"]
        state = {"fc.weight": torch.zeros(3, 2)} | state | changes
        module.load_state_dict(state)
        return module

    loading({})
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "norm.b.weight"'):
        loading({}, without="norm.b.weight")
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "norm.c.weight"'):
        loading({"norm.c.weight": torch.zeros(2)})
    for wrong in (torch.zeros(3), 5):
        with pytest.raises(RuntimeError, match=r"size mismatch for norm.b.weight: .* is torch.Size\(\[2\]\)"):
            loading({"norm.b.weight": wrong})


def test_a_part_is_loaded_if_that_is_asked_for() -> None:
    module = numbered()
    found = module.load_state_dict({"norm.b.weight": torch.tensor([8.0, 8.0])}, strict=False)
    assert set(found.missing_keys) == {"norm.a.weight", "fc.a.bias", "fc.weight"} and not found.unexpected_keys
    assert module.vectors.tolist() == [0, 1, 8, 8, 4, 5, 6]


def test_under_zero3_the_state_dict_has_what_the_rank_holds() -> None:
    module = numbered()
    vectors: Any = module.vectors
    vectors.ds_id, vectors.data = 0, torch.empty(0)
    state = module.state_dict()
    assert set(state) == {"vectors", "fc.weight"} and state["vectors"].shape == (0,)
    module.load_state_dict(state)


def test_a_copy_of_a_network_has_vectors_of_its_own() -> None:
    model = tiny_model()
    twin = copy.deepcopy(model)
    state: dict[str, Tensor] = twin.state_dict()
    state["encoder.blocks.0.norm1.shared.weight"].zero_()
    own, others = (network.get_parameter("encoder.blocks.0.vectors")[: CONFIG.dim] for network in (twin, model))
    assert not own.any() and others.all()
    twin.load_state_dict(model.state_dict())
    inputs = tiny_inputs(1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(twin.encode(inputs), model.encode(inputs), rtol=0, atol=0)


def test_one_parameter_per_block_is_a_vector() -> None:
    model = MaskedDataModel(CONFIG)
    inside = [name for name, p in model.named_parameters() if p.ndim == 1 and not name.startswith("encoder.vision_em")]
    expected = [*(f"encoder.blocks.{block}.vectors" for block in range(CONFIG.depth)), "encoder.norm.vectors"]
    assert inside == [*expected, "mim_head.bias", "mlm_head.bias"]
    assert stacked_rows(model).keys() == set(expected)
