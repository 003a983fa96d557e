"""Tables of parameters and samples."""

from pretrain.planning.memory import count_pieces
from pretrain.planning.network_tables import parameter_table, stage_table, use_table
from pretrain.planning.stages import plan_stage
from pretrain.recipes import RECIPES
from tests.support.memory_ranks import memory_config


def test_parameters_by_part_add_up_to_those_of_the_network() -> None:
    config = RECIPES["demo"]()
    rows = [line[30:45].replace(",", "") for line in parameter_table(config).splitlines()]
    *parts, total, tensors = map(int, rows)
    pieces = count_pieces(config, 0)
    assert sum(parts) == total == pieces.total == 2_168_080 and tensors == pieces.num_tensors


def test_a_pair_has_the_tokens_of_an_image_and_of_a_caption() -> None:
    rows = {line.split()[0]: int(line.split()[1]) for line in use_table(RECIPES["demo"]()).splitlines()[1:]}
    assert rows == {"image": 37, "text": 32, "pair": 57}  # 6 x 6 patches and the class token; 20 tokens


def test_memory_of_a_stage_adds_up_and_names_the_micro_batch() -> None:
    config = RECIPES["demo"]()
    stage = plan_stage(config, memory_config(3), 2, on_cpu=True)
    head, _, row, _ = stage_table(config, [stage], 2, "reference").splitlines()
    assert "1 micro-step of 2 images, 8 pairs and 4 texts a rank, kernels reference" in head
    figures = [float(figure) for figure in row.split()]
    assert figures[0] == 3 and abs(sum(figures[1:-2]) - stage.memory.total / 1e9) <= 0.03
