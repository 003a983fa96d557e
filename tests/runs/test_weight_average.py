"""The moving average of a whole run, through resumes on other numbers of ranks and stages, against one computed by hand
from the weights that every step saved. CPU, a minute."""

import json
from pathlib import Path

import pytest
from torch import Tensor

from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from pretrain.checkpoints.reader import complete_folders
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from tests.support.launch import run_ranks
from tests.support.small_engines import average_by_hand, largest_difference
from tests.support.tiny_run import TinyData

DECAY = 0.9
STEPS = (7, 14, 20)
"""Steps that are done after each start."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "starts",
    [
        pytest.param([(2, 3), (2, 3), (2, 3)], id="the same"),
        pytest.param([(2, 3), (1, 3), (2, 3)], id="ranks, stage 3"),
        pytest.param([(2, 2), (1, 2), (2, 2)], id="ranks, stage 2"),
        pytest.param([(2, 1), (1, 1), (2, 1)], id="ranks, stage 1"),
        pytest.param([(1, 1), (2, 2), (1, 3)], id="stages"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_average_of_twenty_steps_is_that_computed_by_hand(
    precision: str, starts: list[tuple[int, int]], tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    for (num_ranks, stage), num_steps in zip(starts, STEPS, strict=True):
        deepspeed_config = tmp_path / f"stage{stage}.json"
        zero = {"stage": stage, "memory_efficient_linear": False}
        deepspeed_config.write_text(json.dumps({"zero_optimization": zero}))
        settings = ["--optimizer.schedule", "constant", "--optimizer.ema-decay", DECAY, "--precision", precision]
        settings += ["--num-steps", num_steps, "--save-every-steps", 1, "--keep-checkpoints", 100]
        settings += ["--deepspeed-config", deepspeed_config]
        ended = run_ranks(num_ranks, "pretrain.train", ["demo", *tiny_data.overrides(run_dir), *settings])
        assert ended.exit_codes == [0] * num_ranks, ended.stderr
    checkpoint = find_checkpoint(run_dir, PretrainConfig)
    assert checkpoint.step == checkpoint.num_updates == STEPS[-1]
    model = MaskedDataModel(checkpoint.config.model)
    init_weights(model, checkpoint.config.model, checkpoint.config.seed)
    weights = [weights_of(folder) for folder in complete_folders(run_dir / "checkpoints")]
    assert len(weights) == STEPS[-1]
    found = dict(checkpoint_weights(checkpoint, weights="ema"))
    by_hand = average_by_hand({name: tensor.detach() for name, tensor in model.state_dict().items()}, weights, DECAY)
    assert largest_difference(found, by_hand) < 1e-6
    assert largest_difference(found, weights[-1]) > 1e-3


def weights_of(folder: Path) -> dict[str, Tensor]:
    return dict(checkpoint_weights(find_checkpoint(folder)))


@pytest.mark.slow
def test_a_resumed_run_without_the_average_reports_it_and_trains_the_same(
    two_ranks: Path, saved_run: Path, tiny_data: TinyData
) -> None:
    off = run_ranks(2, "pretrain.train", ["demo", *tiny_data.overrides(saved_run), "--optimizer.ema-decay", 0])
    assert off.exit_codes == [0, 0], off.stderr
    assert "optimizer.ema_decay is 0: the checkpoint's average of the weights is dropped" in off.stdout[0].splitlines()
    with pytest.raises(ValueError, match="has no moving average of the weights"):
        dict(checkpoint_weights(find_checkpoint(saved_run), weights="ema"))
    raw, expected = (dict(checkpoint_weights(find_checkpoint(run))) for run in (saved_run, two_ranks))
    assert largest_difference(raw, expected) == 0  # the average changes nothing that is trained
