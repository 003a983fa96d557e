"""Communication of a step under ZeRO-3, counted by DeepSpeed's own log on two ranks. CPU, seconds."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from model.multiway import MultiwayBlock
from tests.support.engine_ranks import Case
from tests.support.launch import run_ranks
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.slow
NUM_RANKS = 2
PACKED = [[4, 4, 4]]
SEPARATE = [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
PLAIN = {
    "stage": 3,
    "stage3_prefetch_bucket_size": 0,
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "memory_efficient_linear": False,
}
MODEL = tiny_model()
SIZES = [parameter.numel() for parameter in MODEL.parameters()]
BLOCKS = [
    sum(p.numel() for p in module.parameters()) for module in MODEL.modules() if isinstance(module, MultiwayBlock)
]
NUM_BYTES = 4 * sum(SIZES)  # float32
CASES = {
    "packed": Case(PLAIN, PACKED),
    "separate": Case(PLAIN, SEPARATE),
    "persistent norms and biases": Case({**PLAIN, "stage3_param_persistence_threshold": 1000}, PACKED),
    "prefetched": Case({**PLAIN, "stage3_prefetch_bucket_size": max(BLOCKS)}, PACKED),
    "kept for backward": Case({**PLAIN, "stage3_max_reuse_distance": 2 * sum(SIZES)}, PACKED),
}


class Traffic:
    """Communication of one step."""

    def __init__(self, by_size: dict[str, dict[str, int]]):
        """by_size: {operation: {bytes of a call: calls}}; one rank's bytes for a gather, all for a reduce-scatter."""
        self.gathers = {NUM_RANKS * int(size): count for size, count in by_size["all_gather_into_tensor"].items()}
        self.reductions = {int(size): count for size, count in by_size["reduce_scatter_tensor"].items()}

    @property
    def num_gathers(self) -> int:
        return sum(self.gathers.values())

    @property
    def gathered_bytes(self) -> int:
        return sum(size * count for size, count in self.gathers.items())


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Traffic]:
    folder: Path = tmp_path_factory.mktemp("traffic")
    (folder / "cases.json").write_text(json.dumps({name: asdict(case) for name, case in CASES.items()}))
    ended = run_ranks(NUM_RANKS, "tests.support.engine_ranks", [folder / "cases.json", folder / "results.json"])
    assert ended.exit_codes == [0] * NUM_RANKS, ended.stderr
    results = json.loads((folder / "results.json").read_text())
    return {name: Traffic(result["traffic"]) for name, result in results.items()}


def test_a_packed_step_gathers_every_parameter_twice_and_reduces_it_once(traffic: dict[str, Traffic]) -> None:
    packed = traffic["packed"]
    assert packed.gathered_bytes == 2 * NUM_BYTES  # forward and backward
    assert packed.reductions == {NUM_BYTES: 1}


def test_three_separate_micro_steps_communicate_three_times_as_much(traffic: dict[str, Traffic]) -> None:
    packed, separate = traffic["packed"], traffic["separate"]
    assert separate.gathers == {size: 3 * count for size, count in packed.gathers.items()}
    assert separate.reductions == {size: 3 * count for size, count in packed.reductions.items()}


def test_a_block_is_gathered_as_one_piece(traffic: dict[str, Traffic]) -> None:
    packed = traffic["packed"]
    for size in set(BLOCKS):
        assert packed.gathers[4 * size] == 2 * BLOCKS.count(size)
    assert packed.num_gathers < 8 * len(BLOCKS) < len(SIZES)


def test_persistent_parameters_cost_a_gather_each_after_every_step(traffic: dict[str, Traffic]) -> None:
    """Show why the shipped threshold is 0: blocks, which hold these parameters, are gathered as one piece anyway."""
    num_persistent = sum(size <= 1000 for size in SIZES)
    packed, persistent = traffic["packed"], traffic["persistent norms and biases"]
    assert num_persistent > 2 * len(BLOCKS)
    assert persistent.num_gathers > num_persistent + packed.num_gathers / 2
    assert persistent.gathered_bytes > 0.95 * packed.gathered_bytes


def test_prefetching_takes_fewer_gathers(traffic: dict[str, Traffic]) -> None:
    assert traffic["prefetched"].num_gathers < traffic["packed"].num_gathers / 2
    assert NUM_BYTES <= traffic["prefetched"].gathered_bytes <= 2 * NUM_BYTES


def test_weights_kept_for_backward_are_gathered_once(traffic: dict[str, Traffic]) -> None:
    kept = traffic["kept for backward"]
    assert kept.gathered_bytes == NUM_BYTES
    assert kept.num_gathers == traffic["packed"].num_gathers / 2
    assert kept.reductions == traffic["packed"].reductions
