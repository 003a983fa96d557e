"""Attention of texts and pairs with their padding as a mask and as sequences."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import model.attention
from model.attention import _import_sequence_attention, attend, find_sequence_attention
from model.captioner import prefill
from model.layout import split_at_padding
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import MultiwayInputs
from tests.kernels import DEVICE
from tests.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets


def sequence_by_sequence(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, key_begins: Tensor, *longest: int) -> Tensor:
    """What torch.nn.attention.varlen.varlen_attn computes, one sequence after the other."""
    assert begins.dtype == torch.int32 and torch.equal(begins, key_begins)
    lengths = begins.diff().tolist()
    assert sum(lengths) == len(q) and all(0 <= length <= min(longest) for length in lengths)
    parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    return torch.cat(
        [scaled_dot_product_attention(*(x.transpose(0, 1) for x in part)).transpose(0, 1) for part in parts]
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Puts the function above in torch's place; the sequences of each call."""
    seen: list[Tensor] = []

    def attention(*args: Any) -> Tensor:
        seen.append(args[3])
        return sequence_by_sequence(*args)

    monkeypatch.setattr(model.attention, "find_sequence_attention", lambda qkv: attention if qkv.numel() else None)
    return seen


def test_a_sample_is_its_tokens_and_its_padding() -> None:
    lengths = torch.tensor([3, 5, 0, 1])
    assert split_at_padding(lengths, 5).tolist() == [0, 3, 5, 10, 10, 10, 15, 16, 20]
    assert split_at_padding(lengths[:0], 5).tolist() == [0]
    assert split_at_padding(torch.zeros(2, dtype=torch.int64), 0).tolist() == [0, 0, 0, 0, 0]


def results(network: MaskedDataModel, inputs: MultiwayInputs, targets: MaskedTargets) -> list[Tensor]:
    """Hidden states of all that is no padding, losses, and the gradients of all parameters."""
    states = network.encode(inputs)
    seen = [states.images, states.captions[~inputs.caption_padding], states.texts[~inputs.text_padding]]
    losses = network(inputs, targets)
    return [*seen, losses, *torch.autograd.grad(losses.sum(), list(network.parameters()))]


@pytest.mark.parametrize("counts", [(1, 2, 2), (0, 2, 0), (1, 0, 2), (0, 0, 0)], ids=str)
def test_a_network_computes_with_sequences_what_it_does_with_masks(
    counts: tuple[int, int, int], calls: list[Tensor]
) -> None:
    inputs = tiny_inputs(*counts)
    targets = on_device(tiny_targets(inputs))
    inputs = on_device(inputs)
    by_mask = results(tiny_model(kernels="reference", depth=1).to(DEVICE), inputs, targets)
    assert calls == []
    by_sequences = results(tiny_model(kernels="triton", depth=1).to(DEVICE), inputs, targets)
    assert len(calls) == 2 * ((counts[1] > 0) + (counts[2] > 0))
    torch.testing.assert_close(by_sequences, by_mask, rtol=1e-4, atol=1e-5)


def test_sequences_give_what_the_mask_gives_also_where_all_or_nothing_is_padding(calls: list[Tensor]) -> None:
    by_mask, by_sequences = attend_both_ways(torch.float32)
    assert len(calls) == 1
    torch.testing.assert_close(by_sequences, by_mask, rtol=1e-4, atol=1e-5)


def test_torchs_function_takes_what_attend_gives_it() -> None:
    function = _import_sequence_attention()
    assert function is not None
    assert list(inspect.signature(function).parameters)[:7] == [
        "query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torchs_attention_over_sequences_gives_what_the_mask_gives() -> None:
    qkv = torch.zeros(1, 2, 3, 4, 64, dtype=torch.bfloat16, device=DEVICE)
    assert find_sequence_attention(qkv) is not None
    by_mask, by_sequences = attend_both_ways(torch.bfloat16)
    torch.testing.assert_close(by_sequences, by_mask, rtol=2e-2, atol=2e-2)


def attend_both_ways(dtype: torch.dtype) -> list[list[Tensor]]:
    """Outputs at all that is no padding, and gradients."""
    lengths, num_tokens = torch.tensor([7, 64, 1, 0, 33], device=DEVICE), 64
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(5, num_tokens, 3, 4, 64, generator=generator).to(DEVICE, dtype).requires_grad_()
    seen = torch.arange(num_tokens, device=DEVICE) < lengths[:, None]
    mask = seen[:, None, None] | ~seen[:, None, :, None]  # a row that sees nothing would be NaN
    dy = torch.randn(5, num_tokens, 256, generator=generator).to(DEVICE, dtype) * seen[..., None]
    both = []
    for sequences in (None, split_at_padding(lengths, num_tokens)):
        output = attend(qkv, mask, sequences)
        both.append([output[seen], torch.autograd.grad(output, qkv, dy)[0]])
    return both


def test_causal_captions_and_the_reference_have_their_mask_alone() -> None:
    inputs = tiny_inputs(1, 3, 2)
    causal, by_mask = replace(inputs, causal_captions=True).layout("triton"), inputs.layout("reference")
    assert causal.pair_sequences is None and causal.text_sequences is not None
    assert by_mask.pair_sequences is None and by_mask.text_sequences is None


def test_a_captioner_that_keeps_keys_and_values_keeps_its_mask(calls: list[Tensor]) -> None:
    images = on_device(tiny_inputs(0, 3, 0)).images
    cached = prefill(tiny_model(kernels="triton").to(DEVICE), images)
    assert calls == [] and cached.num_tokens == CONFIG.num_image_tokens


def test_a_cpu_has_no_attention_over_sequences() -> None:
    assert find_sequence_attention(torch.zeros(1, 2, 3, 4, 8, dtype=torch.bfloat16)) is None


def on_device(step: Any) -> Any:
    return replace(step, **{name: x.to(DEVICE) for name, x in vars(step).items() if isinstance(x, Tensor)})
