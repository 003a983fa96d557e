"""Counted operations and bytes, compared with those of model/flops.py and of the kernels' documentation."""

from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest
import torch

from model.config import Checkpointing, KernelChoice
from model.flops import training_flops
from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.micro_step_work import WorkCounter, micro_step_work
from pretrain.planning.planned_kind import MicroBatch
from pretrain.planning.roofline import MicroStepWork, Operation, PhaseWork
from tests.support.memory_ranks import small_config

BATCH = MicroBatch(3, 3, 3)


def counted(config: PretrainConfig, kernels: KernelChoice = "reference") -> MicroStepWork:
    return micro_step_work(config, BATCH, kernels)


def flops_by_part(*phases: PhaseWork) -> Counter[str]:
    found: Counter[str] = Counter()
    for phase in phases:
        for operation, count in phase.operations.items():
            found[operation.part] += count * operation.flops
    return found


@pytest.mark.parametrize("attention", ["shared", "decoupled"])
@pytest.mark.parametrize("kernels", ["reference", "triton"])
def test_the_counted_products_are_those_of_the_formula(
    attention: Literal["shared", "decoupled"], kernels: KernelChoice
) -> None:
    config = small_config(1, 1)
    config = replace(config, model=replace(config.model, attention=attention))
    work = counted(config, kernels)
    flops = flops_by_part(work.forward, work.backward)
    size = config.step_size(3, (config.data.caption_length,) * 3, (config.data.text_length,) * 3)
    # the formula counts attention's backward as twice its forward; FlashAttention does five products for its two
    assert flops["products"] + 3 * flops["attention forward"] == training_flops(config.model, size)
    assert flops["attention backward"] == 2.5 * flops["attention forward"]


def test_full_checkpointing_computes_the_blocks_again_but_for_their_last_product() -> None:
    config = small_config(1, 1)
    plain = counted(config)
    again = counted(replace(config, activation_checkpointing=Checkpointing("full")))
    assert flops_by_part(again.forward) == flops_by_part(plain.forward)
    encoder = flops_by_part(plain.forward)
    more = flops_by_part(again.backward) - flops_by_part(plain.backward)
    assert more["attention forward"] == encoder["attention forward"]
    assert 0.5 * encoder["products"] < more["products"] < encoder["products"]
    assert again.backward.num_dispatched > plain.backward.num_dispatched


def test_fused_kernels_move_fewer_bytes_and_are_launched() -> None:
    config = small_config(1, 1)
    fused, plain = counted(config, "triton"), counted(config)
    moved = [
        sum(operation.num_bytes * count for operation, count in work.forward.operations.items())
        for work in (fused, plain)
    ]
    assert moved[0] < 0.8 * moved[1]
    assert fused.forward.num_launches > 0 and plain.forward.num_launches == 0
    assert fused.forward.num_dispatched < plain.forward.num_dispatched


def test_the_activation_kernel_moves_the_bytes_of_its_documentation() -> None:
    config = small_config(1, 1)
    work, network = counted(config, "triton"), config.model
    rows = 3 * (2 * network.num_image_tokens + config.data.caption_length + config.data.text_length)
    for phase, part, matrices in (
        (work.forward, "activation forward", 2),
        (work.backward, "activation backward", 4),
    ):
        moved = [operation.num_bytes for operation in phase.operations if operation.part == part]
        fewest = 4 * matrices * rows * network.ffn_dim
        for num_bytes in moved:  # in float32; statistics, parameters and partial sums come on top
            assert fewest < num_bytes < 1.25 * fewest
        assert sum(phase.operations[op] for op in phase.operations if op.part == part) == network.depth


def test_an_operation_of_torch_reads_its_inputs_and_writes_its_outputs() -> None:
    a, b, row = torch.zeros(4, 8), torch.zeros(4, 8), torch.zeros(8)
    with WorkCounter() as counter:
        _ = a + b  # three matrices of 128 bytes
        _ = a.t()  # a view
        _ = a + row.expand(4, 8)  # the row is read once
        a.copy_(b)
        _ = torch.cat([a, b])
        _ = a.index_select(0, torch.zeros(2, dtype=torch.int64))  # two rows of 32 bytes, and two indices of 8
    work = counter.work_so_far()
    assert work.operations == {
        Operation("other operations", 0, 3 * 128): 1,
        Operation("other operations", 0, 2 * 128 + 32): 1,
        Operation("copies", 0, 2 * 128): 1,
        Operation("copies", 0, 4 * 128): 1,
        Operation("copies", 0, 4 * 32 + 16): 1,
        Operation("other operations", 0, 16): 1,  # the indices are written
    }
    assert work.num_dispatched >= 7 and counter.work_so_far().operations == {}


def test_a_product_counts_two_operations_per_multiply_add_wherever_it_is_written() -> None:
    a, b, y = torch.zeros(4, 8), torch.zeros(8, 16), torch.zeros(4, 16)
    with WorkCounter() as counter:
        torch.mm(a, b)
        torch.mm(a, b, out=y)
    num_bytes = 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert counter.work_so_far().operations == {Operation("products", 2 * 4 * 8 * 16, num_bytes): 2}
