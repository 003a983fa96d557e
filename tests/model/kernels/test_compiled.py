"""The compiled definitions compute the same as the definitions. CPU, seconds to compile."""

import shutil
from functools import partial
from typing import Any

import pytest
import torch

from model.config import KEEP_EVERYTHING, Checkpointing
from model.kernels.backend import choose_backend
from model.kernels.compiled import compiled
from model.stochastic_depth import drop_path_scales
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets


@pytest.mark.slow  # Inductor compiles C++ for most of a minute; the golden losses run with it too
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("counts", [(2, 3, 4), (2, 0, 0)], ids=str)
def test_a_compiled_network_has_the_losses_and_gradients_of_its_definition(counts: tuple[int, int, int]) -> None:
    inputs, scales = tiny_inputs(*counts), drop_path_scales(1, torch.arange(sum(counts)), CONFIG.depth, 0.3)

    def compute(model: torch.nn.Module) -> list[torch.Tensor]:
        losses = model(inputs, tiny_targets(inputs), scales)
        return [losses, *torch.autograd.grad(losses.sum(), list(model.parameters()))]

    expected = compute(tiny_model(kernels="reference").train())
    for checkpointing in (KEEP_EVERYTHING, Checkpointing("full")):
        found = compute(tiny_model(kernels="compile", checkpointing=checkpointing).train())
        for here, there in zip(found, expected, strict=True):
            torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_new_batch_sizes_need_no_new_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[object] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    compiled.cache_clear()
    model, reference, seen = tiny_model(kernels="compile"), tiny_model(kernels="reference"), []
    for seed, counts in enumerate([(2, 3, 4), (3, 2, 4), (2, 5, 3), (5, 5, 5), (6, 2, 2)]):
        inputs = tiny_inputs(*counts, seed=seed)
        losses = model(inputs, tiny_targets(inputs))
        losses.sum().backward()
        torch.testing.assert_close(
            losses, reference(inputs, tiny_targets(inputs))
        )  # the graphs run as they were traced
        seen.append(len(graphs))
    compiled.cache_clear()
    torch._dynamo.reset()
    assert 0 < seen[0] and seen[2] == seen[-1]


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler, and there is no no-such-compiler"):
        choose_backend("compile", torch.device("cpu"))
