"""Bytes and seconds of communication are those of the literature and of what was counted."""

from typing import Any

import pytest

from pretrain.traffic import Collective, Network, collectives, sent_bytes

PARAMETERS = 1_900_000_000


def zero(stage: int, **settings: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **settings}}


def test_the_giants_traffic_on_64_ranks() -> None:
    third = collectives(zero(3), PARAMETERS, 2, 64, 1)
    assert sent_bytes(third) == pytest.approx(11.2e9, rel=0.01)  # three times the 3.8 GB of the weights
    reduced_to_its_rank = collectives(zero(2, use_multi_rank_bucket_allreduce=False), PARAMETERS, 2, 64, 1)
    assert sent_bytes(reduced_to_its_rank) == pytest.approx(7.5e9, rel=0.01)
    assert sent_bytes(collectives(zero(2), PARAMETERS, 2, 64, 1)) == pytest.approx(11.2e9, rel=0.01)
    one_link = Network(gpus_per_node=1, between_gb_per_second=50, hop_microseconds=0)
    assert sum(map(one_link.seconds, third)) == pytest.approx(0.23, abs=0.01)
    assert sum(map(one_link.seconds, reduced_to_its_rank)) == pytest.approx(0.15, abs=0.01)


def test_accumulation_costs_stage_3_most() -> None:
    sent = {stage: [sent_bytes(collectives(zero(stage), 1000, 2, 2, m)) for m in (1, 4)] for stage in (1, 2, 3)}
    assert sent == {1: [3000, 3000], 2: [3000, 9000], 3: [3000, 12000]}


def test_the_counted_collectives_of_a_packed_step() -> None:
    # 1084 KiB of float32 parameters, 2 ranks: 2 all-gathers to which a rank gives half, 1 reduce-scatter
    found = collectives(zero(3), 1084 * 256, 4, 2, 1)
    assert [collective.num_pieces for collective in found] == [1, 1, 1]
    assert [collective.sent_bytes for collective in found] == [542 * 1024] * 3
    assert len(collectives(zero(3), 1084 * 256, 4, 2, 3)) == 9


def test_hpz_keeps_the_backwards_gather_in_the_node() -> None:
    network = Network(hop_microseconds=0)
    plain = [network.seconds(c) for c in collectives(zero(3), PARAMETERS, 2, 64, 1)]
    hpz = [network.seconds(c) for c in collectives(zero(3, zero_hpz_partition_size=8), PARAMETERS, 2, 64, 1)]
    assert hpz[0] == plain[0] and hpz[2] == plain[2]
    assert hpz[1] == pytest.approx(7 / 8 * 3.8 / 450)


def test_hops_count_between_nodes_only() -> None:
    network = Network(within_gb_per_second=1e9, between_gb_per_second=1e9, hop_microseconds=10)
    assert network.seconds(Collective(8, 1, 8, 5)) == pytest.approx(0, abs=1e-12)
    assert network.seconds(Collective(8, 2, 32, 5)) == pytest.approx(2 * 5 * 3 * 10e-6)
