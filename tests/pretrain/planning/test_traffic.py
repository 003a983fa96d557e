"""Bytes and seconds of communication, compared with the literature and with counts."""

from typing import Any

import pytest

from pretrain.planning.traffic import Collective, Network, collectives, sent_bytes

PARAMETERS = 1_900_000_000


def zero(stage: int, **settings: Any) -> dict[str, Any]:
    """Return zero_optimization of a stage, by default without weights that stay gathered."""
    return {"zero_optimization": {"stage": stage, "stage3_max_reuse_distance": 0, **settings}}


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
    # counted on 2 ranks: 5.1M parameters in buckets of 1M and 2M: 5 or 6 all-gathers, 3 reduce-scatters
    settings = {
        "stage3_max_reuse_distance": 10**9,
        "stage3_prefetch_bucket_size": 10**6,
        "reduce_bucket_size": 2 * 10**6,
    }
    found = collectives(zero(3, **settings), 5_133_472, 4, 2, 1)
    assert [collective.num_pieces for collective in found] == [6, 0, 3]
    assert sent_bytes(found) == 2 * 5_133_472 * 4 // 2


def test_weights_that_stay_gathered_are_not_gathered_again() -> None:
    found = collectives(zero(3, stage3_max_reuse_distance=400), 1000, 2, 2, 1)
    assert [collective.num_bytes for collective in found] == [2000, 1200, 2000]


def test_hpz_keeps_the_gather_of_backward_in_the_node() -> None:
    network = Network(hop_microseconds=0)
    plain = [network.seconds(c) for c in collectives(zero(3), PARAMETERS, 2, 64, 1)]
    hpz = [network.seconds(c) for c in collectives(zero(3, zero_hpz_partition_size=8), PARAMETERS, 2, 64, 1)]
    assert hpz[0] == plain[0] and hpz[2] == plain[2]
    assert hpz[1] == pytest.approx(7 / 8 * 3.8 / 450)


def test_hops_count_between_nodes_only() -> None:
    network = Network(within_gb_per_second=1e9, between_gb_per_second=1e9, hop_microseconds=10)
    assert network.seconds(Collective(8, 1, 8, 5)) == pytest.approx(0, abs=1e-12)
    assert network.seconds(Collective(8, 2, 32, 5)) == pytest.approx(2 * 5 * 3 * 10e-6)
