"""Deterministic algorithms: what is set, and that no operation of a step lacks one. CPU, seconds."""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer
from pretrain.engine.determinism import WORKSPACE, use_deterministic_algorithms
from pretrain.jobs.visual_tokens import network_view, tokenizer_view
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets

WITHOUT = {
    "torch.nn.AvgPool3d": {"avg_pool3d_backward"},
    "torch.nn.AdaptiveAvgPool2d": {"_adaptive_avg_pool2d_backward"},
    "torch.nn.AdaptiveAvgPool3d": {"_adaptive_avg_pool3d_backward"},
    "torch.nn.AdaptiveMaxPool2d": {"adaptive_max_pool2d_backward"},
    "torch.nn.FractionalMaxPool2d": {"fractional_max_pool2d_backward"},
    "torch.nn.FractionalMaxPool3d": {"fractional_max_pool3d_backward"},
    "torch.nn.MaxUnpool1d": {"max_unpool2d"},
    "torch.nn.MaxUnpool2d": {"max_unpool2d"},
    "torch.nn.MaxUnpool3d": {"max_unpool3d"},
    "torch.nn.functional.interpolate": {
        "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
        "upsample_trilinear3d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward",
    },
    "torch.nn.ReflectionPad1d": {"reflection_pad1d_backward"},
    "torch.nn.ReflectionPad2d": {"reflection_pad2d_backward"},
    "torch.nn.ReflectionPad3d": {"reflection_pad3d_backward"},
    "torch.nn.NLLLoss": {"nll_loss2d_forward", "nll_loss2d_backward"},  # of images of labels; ours are rows of them
    "torch.nn.CTCLoss": {"_ctc_loss_backward"},
    "torch.nn.EmbeddingBag": {"_embedding_bag_dense_backward"},
    "torch.Tensor.put_": {"put_"},
    "torch.histc": {"histc"},
    "torch.bincount": {"bincount"},
    "torch.median": {"median", "nanmedian"},
    "torch.nn.functional.grid_sample": {"grid_sampler_2d_backward", "grid_sampler_3d_backward"},
    "torch.cumsum": {"cumsum"},  # of floating point
    "torch.Tensor.scatter_reduce": {"scatter_reduce", "scatter_reduce_"},
    "torch.Tensor.resize_": set(),  # of quantized tensors, which we have none of
}  # fmt: skip
"""Operations that torch lists as without a deterministic algorithm on a GPU: its name for each, and the names that a
dispatch mode sees."""
VISUAL = VisualTokenizerConfig(
    image_size=16, patch_size=4, dim=32, num_heads=4, encoder_depth=1, decoder_depth=1, num_codes=12, code_dim=8,
    teacher_dim=48,
)  # fmt: skip


class Recorder(TorchDispatchMode):
    """Names of all operations in a block; those that are listed for floating point only, if they are on it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name != "cumsum" or args[0].is_floating_point():
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def train_on_pairs() -> None:
    inputs = tiny_inputs(2, 2, 2)
    network_view(torch.zeros(2, 3, 40, 40, dtype=torch.uint8), 32)
    tiny_model(kernels="reference").train()(inputs, tiny_targets(inputs), torch.ones(3, 2, 6)).sum().backward()


def train_a_visual_tokenizer() -> None:
    tokenizer = VisualTokenizer(VISUAL)
    pixels = tokenizer_view(torch.zeros(2, 3, 20, 20, dtype=torch.uint8), 16)
    similarity, commitment_loss, features = tokenizer(pixels, torch.randn(2, 16, 48))
    (1 - similarity + commitment_loss).backward()
    codebook, flat = tokenizer.codebook, features.detach().flatten(0, 1)
    codebook.start(flat)
    codebook.move(*codebook.assign(flat), flat[:12], decay=0.9, revival_threshold=0.1)


@pytest.mark.parametrize("train", [train_on_pairs, train_a_visual_tokenizer])
def test_no_operation_of_a_step_lacks_a_deterministic_algorithm(train: Callable[[], None]) -> None:
    with Recorder() as recorder:
        train()
    assert any(name.endswith("_backward") for name in recorder.names)
    assert recorder.names & set.union(*WITHOUT.values()) == set()


def test_an_operation_without_one_would_be_found() -> None:
    image = torch.randn(1, 3, 4, 4, requires_grad=True)
    with Recorder() as recorder:
        torch.nn.functional.interpolate(image, size=8, mode="bicubic").sum().backward()
        torch.rand(3).cumsum(0)
    assert recorder.names & set.union(*WITHOUT.values()) == {"upsample_bicubic2d_backward", "cumsum"}


def test_the_operations_are_those_that_this_torch_lists() -> None:
    documentation = torch.use_deterministic_algorithms.__doc__ or ""
    listed = documentation.partition("operations will throw a")[2].partition("In addition,")[0]
    assert listed and set(re.findall(r"\* :\w+:`([\w.]+)`", listed)) <= set(WITHOUT)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what the setting changes."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = cudnn.deterministic, cudnn.benchmark, cuda.cudnn_sdp_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark = before[:2]
    cuda.enable_cudnn_sdp(before[2])
    torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
    os.environ.pop(WORKSPACE, None)


@pytest.mark.usefixtures("settings")
def test_deterministic_algorithms_are_used_and_not_only_warned_of() -> None:
    use_deterministic_algorithms()
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ[WORKSPACE] == ":4096:8" and not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    train_on_pairs()


@pytest.mark.usefixtures("settings")
def test_a_workspace_that_is_not_deterministic_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG is :0:0, .* unset it"):
        use_deterministic_algorithms()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("settings")
def test_gradients_on_a_gpu_repeat_to_the_bit() -> None:
    use_deterministic_algorithms()
    device = torch.device("cuda")
    model = tiny_model(dim=128, kernels="triton").to(device, torch.bfloat16)
    inputs = tiny_inputs(32, 32, 32)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(on(inputs, device), on(tiny_targets(inputs), device)).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    first = gradients()
    assert len(first) == len(list(model.parameters()))
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), first, strict=True))


def on(step: Any, device: torch.device) -> Any:
    """Return inputs or targets on a device, with pixels in bfloat16."""
    moved = {
        name: x.to(device, torch.bfloat16 if x.is_floating_point() else None)
        for name, x in vars(step).items()
        if isinstance(x, Tensor)
    }
    return type(step)(**{**vars(step), **moved})
