"""Attention within sequences of different lengths: in one call, one per length, and with a mask. CPU, seconds."""

import inspect
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

import model.attention
from model.attention import (
    _has_wide_elements,
    _import_varlen_attention,
    _JoinKinds,
    _SplitKinds,
    attend,
    find_varlen_attention,
)
from model.captioner import prefill
from model.layout import PackedLayout, Sequences, packed_layout, unpadded_texts
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import MultiwayInputs
from tests.support.kernels import DEVICE
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets


def sequence_by_sequence(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, key_cu_seqlens: Tensor, *max_seqlens: int
) -> Tensor:
    """Compute torch.nn.attention.varlen.varlen_attn one sequence after the other."""
    assert cu_seqlens.dtype == torch.int32 and torch.equal(cu_seqlens, key_cu_seqlens)
    lengths = cu_seqlens.diff().tolist()
    assert sum(lengths) == len(q) and all(0 <= length <= min(max_seqlens) for length in lengths)
    parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    return torch.cat(
        [scaled_dot_product_attention(*(x.transpose(0, 1) for x in part)).transpose(0, 1) for part in parts]
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Replace torch's function by the one above, and list the sequences of each call."""
    seen: list[Tensor] = []

    def attention(*args: Any) -> Tensor:
        seen.append(args[3])
        return sequence_by_sequence(*args)

    monkeypatch.setattr(model.attention, "find_varlen_attention", lambda q: attention if q.numel() else None)
    return seen


def results(network: MaskedDataModel, inputs: MultiwayInputs, targets: MaskedTargets) -> list[Tensor]:
    """Return the hidden states without padding, the losses, and the gradients of all parameters."""
    states = network.encode(inputs)
    seen = [states.images, states.captions[~inputs.caption_padding], states.texts[~inputs.text_padding]]
    losses = network(inputs, targets)
    return [*seen, losses, *torch.autograd.grad(losses.sum(), list(network.parameters()))]


@pytest.mark.parametrize("counts", [(1, 2, 2), (0, 2, 0), (1, 0, 2), (0, 0, 0)], ids=str)
def test_a_network_computes_sequences_at_once_as_one_after_the_other(
    counts: tuple[int, int, int], calls: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tiny_inputs(*counts)
    targets = on_device(tiny_targets(inputs))
    inputs = on_device(inputs)
    network = tiny_model(depth=1).to(DEVICE)
    at_once = results(network, inputs, targets)
    assert len(calls) == 2 * ((counts[1] > 0) + (counts[2] > 0))
    monkeypatch.setattr(model.attention, "find_varlen_attention", lambda q: None)
    torch.testing.assert_close(results(network, inputs, targets), at_once, rtol=1e-4, atol=1e-5)


def test_sequences_of_any_length_equal_attention_with_a_mask(calls: list[Tensor]) -> None:
    by_mask, by_sequences = attend_both_ways(torch.float32)
    assert len(calls) == 1
    torch.testing.assert_close(by_sequences, by_mask, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_sequences_of_a_length_are_one_call_with_the_results_of_one_each(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, shapes = (3, 5, 0, 3, 7, 5, 3), []

    def counted(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(q.shape[::2]))
        return scaled_dot_product_attention(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    qkv = torch.randn(3, sum(lengths), 4, 8, requires_grad=True)
    mask = torch.ones(7, 7).tril().bool() if masked else None
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    together = attend(qkv, Sequences(lengths, cu_seqlens), mask)
    assert sorted(shapes) == [(1, 7), (2, 5), (3, 3)]
    parts = (qkv[:, start:stop] for start, stop in pairwise(cu_seqlens.tolist()))
    alone = torch.cat([attend(part, Sequences((part.shape[1],), cu_seqlens), mask) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
    dy = torch.randn_like(alone)
    gradients = (torch.autograd.grad(output, qkv, dy)[0] for output in (together, alone))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_torchs_function_takes_what_attend_gives_it() -> None:
    function = _import_varlen_attention()
    assert function is not None
    assert list(inspect.signature(function).parameters)[:7] == [
        "query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torchs_varlen_attention_equals_attention_with_a_mask() -> None:
    qkv = torch.zeros(1, 2, 3, 4, 64, dtype=torch.bfloat16, device=DEVICE)
    assert find_varlen_attention(qkv[0]) is not None
    by_mask, by_sequences = attend_both_ways(torch.bfloat16)
    torch.testing.assert_close(by_sequences, by_mask, rtol=2e-2, atol=2e-2)


def attend_both_ways(dtype: torch.dtype) -> list[list[Tensor]]:
    """Return outputs and gradients of padded samples with a mask, and of their tokens as sequences."""
    lengths, num_tokens = (7, 64, 1, 0, 33), 64
    generator = torch.Generator().manual_seed(0)
    padding = torch.arange(num_tokens, device=DEVICE) >= torch.tensor(lengths, device=DEVICE)[:, None]
    tokens = unpadded_texts(padding, lengths)
    qkv = torch.randn(tokens.num_rows, 3, 4, 64, generator=generator).to(DEVICE, dtype).requires_grad_()
    dy = torch.randn(tokens.num_rows, 256, generator=generator).to(DEVICE, dtype)
    q, k, v = (x.transpose(1, 2) for x in tokens.pad(qkv, num_tokens).unbind(2))
    mask = ~padding[:, None, None] | padding[:, None, :, None]  # a row that sees nothing would be NaN
    padded = scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    outputs = (tokens.unpad(padded), attend(qkv.unbind(1), tokens))
    return [[output, torch.autograd.grad(output, qkv, dy, retain_graph=True)[0]] for output in outputs]


def test_a_causal_mask_is_cut_to_each_pairs_length(calls: list[Tensor]) -> None:
    network, inputs = tiny_model(), replace(tiny_inputs(0, 3, 0), causal_captions=True)
    lengths = (~inputs.caption_padding).sum(1).tolist()
    assert len(set(lengths)) > 1
    with torch.no_grad():
        states = network.encode(inputs)
        for pair, length in enumerate(lengths):
            for kept in (length, 7):  # with a mask of the right size, and with one to cut
                alone = replace(
                    inputs,
                    **{name: getattr(inputs, name)[pair : pair + 1] for name in ("images", "image_mask")},
                    caption_ids=inputs.caption_ids[pair : pair + 1, :kept],
                    caption_padding=inputs.caption_padding[pair : pair + 1, :kept],
                )
                found = network.encode(alone).captions[0, :length]
                torch.testing.assert_close(found, states.captions[pair, :length])
    assert calls == []


def test_a_captioner_that_keeps_keys_and_values_keeps_its_mask(calls: list[Tensor]) -> None:
    images = on_device(tiny_inputs(0, 1, 0)).images
    cached = prefill(tiny_model(kernels="triton").to(DEVICE), images)
    assert calls == [] and cached.num_tokens == CONFIG.num_image_tokens


def test_a_cpu_has_no_varlen_attention() -> None:
    assert find_varlen_attention(torch.zeros(1, 2, 3, 4, 8, dtype=torch.bfloat16)) is None


def on_device(step: Any) -> Any:
    return replace(step, **{name: x.to(DEVICE) for name, x in vars(step).items() if isinstance(x, Tensor)})


class BytesWritten(TorchDispatchMode):
    """Counts the bytes that operations write."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name() and isinstance(result, Tensor):
            self.num_bytes += result.nbytes
        return result


def split_by_torch(qkv: Tensor, layout: PackedLayout) -> list[Tensor]:
    images, pairs, texts = qkv.split(layout.kind_rows)
    return [x for kind in (images, pairs.index_select(0, layout.pair_order), texts) for x in kind.unbind(1)]


def join_by_torch(kinds: list[Tensor], layout: PackedLayout) -> Tensor:
    images, pairs, texts = kinds
    return torch.cat([images, pairs.index_select(0, layout.inverse_pair_order), texts])


def layout_of(*counts: int) -> PackedLayout:
    inputs = tiny_inputs(*counts)
    captions, texts = (unpadded_texts(padding, None) for padding in (inputs.caption_padding, inputs.text_padding))
    return packed_layout(counts[0], 5, captions, texts)


@pytest.mark.parametrize("counts", [(2, 3, 2), (0, 2, 0), (2, 0, 1), (0, 0, 0)], ids=str)
@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.bfloat16, 8), (torch.float32, 3)], ids=str)
def test_kinds_are_split_and_joined_as_by_torch_to_the_bit(
    counts: tuple[int, int, int], dtype: torch.dtype, head_dim: int
) -> None:
    layout = layout_of(*counts)
    qkv = torch.randn(layout.num_rows, 3, 2, head_dim).to(dtype).requires_grad_()
    assert _has_wide_elements(qkv.flatten(1)) is (head_dim == 8)
    found, expected = _SplitKinds.apply(qkv, layout), split_by_torch(qkv, layout)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    grads = [torch.randn(x.shape).to(dtype) for x in expected]
    (gradient,), (by_torch,) = (torch.autograd.grad(outputs, [qkv], grads) for outputs in (found, expected))
    assert torch.equal(gradient, by_torch)

    kinds = [torch.randn(rows, 2 * head_dim).to(dtype).requires_grad_() for rows in layout.kind_rows]
    joined, by_torch = _JoinKinds.apply(*kinds, layout), join_by_torch(kinds, layout)
    assert torch.equal(joined, by_torch)
    dy = torch.randn(joined.shape).to(dtype)
    for a, b in zip(*(torch.autograd.grad(rows, kinds, dy) for rows in (joined, by_torch)), strict=True):
        assert torch.equal(a, b)


def test_gradients_of_attention_are_right() -> None:
    layout = layout_of(1, 2, 2)
    qkv = torch.randn(layout.num_rows, 3, 2, 4, dtype=torch.float64).requires_grad_()

    def attention(qkv: Tensor) -> Tensor:
        kinds = _SplitKinds.apply(qkv, layout)
        sequences = (layout.images, layout.pairs, layout.texts)
        return _JoinKinds.apply(*(attend(kinds[3 * i : 3 * i + 3], x) for i, x in enumerate(sequences)), layout)

    assert torch.autograd.gradcheck(attention, [qkv], fast_mode=True)


def test_backward_writes_the_gradients_of_queries_keys_and_values_once() -> None:
    layout = layout_of(2, 3, 2)
    qkv = torch.randn(layout.num_rows, 3, 2, 8).requires_grad_()
    kinds = _SplitKinds.apply(qkv, layout)
    grads = [torch.ones_like(x) for x in kinds]
    with BytesWritten() as ours:
        torch.autograd.grad(kinds, [qkv], grads)
    with BytesWritten() as by_torch:
        torch.autograd.grad(split_by_torch(qkv, layout), [qkv], grads)
    assert ours.num_bytes == qkv.nbytes
    assert by_torch.num_bytes > 2 * qkv.nbytes
