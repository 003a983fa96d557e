"""Crafted checkpoints with a consistent manifest, which is not a signature: no command executes anything in them. CPU,
half a minute."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.stacked_vectors import NOTHING_STACKED
from pretrain.checkpoints.background_files import BackgroundCheckpointEngine
from pretrain.checkpoints.partitions import saved_parameters
from pretrain.checkpoints.reader import latest_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.conversion.convert import convert
from pretrain.conversion.options import ConvertOptions
from pretrain.engine.optimizer import MOMENTS
from pretrain.evaluation.masked_patches import evaluate_masked_patches
from pretrain.evaluation.masked_words import evaluate_masked_words
from pretrain.evaluation.options import MaskedPatchesOptions, MaskedWordsOptions
from tests.support.crafted import ATTACKS, Payload, copy_of_run, seal
from tests.support.faults import few_now
from tests.support.launch import run_ranks
from tests.support.tiny_run import TinyData

MODEL_STATES = "zero_pp_rank_0_mp_rank_00_model_states.pt"
OPTIMIZER_STATES = "zero_pp_rank_1_mp_rank_00_optim_states.pt"


def moments(folder: Path) -> None:
    for _ in saved_parameters(folder, NOTHING_STACKED, MOMENTS):
        pass


@pytest.fixture(scope="module")
def commands(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Path], object]]:
    """Return functions that read a checkpoint as commands do, given the checkpoint's folder."""
    out: Path = tmp_path_factory.mktemp("out")
    shards = tiny_data.folder
    return {
        "convert": lambda folder: convert(ConvertOptions(folder, out / "beit3")),
        "convert a run": lambda folder: convert(ConvertOptions(folder.parents[1], out / "ours", to="safetensors")),
        "convert to timm": lambda folder: convert(ConvertOptions(folder, out / "timm", to="timm", verify=False)),
        "masked_words": lambda folder: evaluate_masked_words(MaskedWordsOptions(folder, shards / "pairs")),
        "masked_patches": lambda folder: evaluate_masked_patches(MaskedPatchesOptions(folder, shards / "images")),
        "moments": moments,
    }


@pytest.mark.parametrize("name", [MODEL_STATES, OPTIMIZER_STATES])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_command_executes_what_a_consistent_checkpoint_holds(
    name: str, commands: dict[str, Callable[[Path], object]], two_ranks: Path, tmp_path: Path
) -> None:
    folder, marker = copy_of_run(two_ranks, tmp_path / "run"), tmp_path / "executed"
    for attack in ("archive", "TorchScript", "tar", "before torch 1.6"):
        ATTACKS[attack](folder / name, marker)
        seal(folder)
        for command, run in commands.items():
            with pytest.raises(ValueError, match=rf"{name} (holds code|is a TorchScript|is a tar)"):
                run(folder)
            assert not marker.exists(), command


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_deepspeeds_own_loading_reads_data_alone(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, marker = tmp_path / "mp_rank_00_model_states.pt", tmp_path / "executed"
    ATTACKS[attack](path, marker)
    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **named: marker.touch())
    with pytest.raises(ValueError, match=str(path)):
        BackgroundCheckpointEngine().load(str(path), map_location=lambda storage, location: storage)
    assert not marker.exists()


def put(payload: Payload, *keys: Any) -> Callable[[Any], object]:
    """Return a function that puts a payload into a state, at these nested keys."""

    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = payload

    return change


def change_file(path: Path, change: Callable[[Any], object]) -> None:
    state = torch.load(path, weights_only=False)  # written by the run of this test
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("num_ranks", "name", "keys"),
    few_now(
        [(2, MODEL_STATES, ("ds_config",)), (1, OPTIMIZER_STATES, ("optimizer_state_dict", "loss_scaler"))],
        [(1, MODEL_STATES, ("ds_config",)), (2, OPTIMIZER_STATES, ("optimizer_state_dict", "loss_scaler"))],
    ),
)
def test_a_resumed_run_executes_nothing_on_its_own_topology_and_on_another(
    num_ranks: int, name: str, keys: tuple[str, ...], two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    folder, marker = copy_of_run(two_ranks, tmp_path / "run"), tmp_path / "executed"
    change_file(folder / name, put(Payload(marker), *keys))
    seal(folder)
    ended = run_ranks(num_ranks, "pretrain.train", ["demo", *tiny_data.overrides(tmp_path / "run")])
    assert ended.exit_codes == [2] * num_ranks, ended.stderr
    assert not marker.exists()
    (said,) = [line for line in ended.stderr[0].splitlines() if line.startswith("error: ")]
    assert said.startswith(f"error: {folder / name} holds code (posix.mkdir), which is not executed")


def test_a_resume_refuses_files_that_nobody_listed_and_states_of_another_form(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run")]
    foreign = folder / "zero_pp_rank_9_mp_rank_00_optim_states.pt"
    torch.save(Payload(tmp_path / "executed"), foreign)
    with pytest.raises(ValueError, match=f"{foreign} is not listed in manifest.json; "):
        latest_checkpoint(tmp_path / "run", PretrainConfig)
    foreign.unlink()
    change_file(folder / OPTIMIZER_STATES, lambda state: state["optimizer_state_dict"]["fp32_flat_groups"].pop())
    seal(folder)
    ended = run_ranks(2, "pretrain.train", arguments)
    assert ended.exit_codes == [2, 2], ended.stderr
    assert f"{folder / OPTIMIZER_STATES} does not hold what DeepSpeed saves (1 groups of weights)" in ended.stderr[0]
    assert not (tmp_path / "executed").exists()


def several(state: Any, **changes: Any) -> None:
    state.update(changes)


WRONG_STATES: list[tuple[str, Callable[[Any], object]]] = [
    (OPTIMIZER_STATES, lambda state: state["optimizer_state_dict"].pop("fp32_flat_groups")),
    (OPTIMIZER_STATES, lambda state: state["optimizer_state_dict"]["fp32_flat_groups"].append(torch.zeros(1))),
    (OPTIMIZER_STATES, lambda state: several(state["optimizer_state_dict"], fp32_flat_groups=[torch.zeros(2)] * 2)),
    (OPTIMIZER_STATES, lambda state: several(state, optimizer_state_dict=5)),
    (MODEL_STATES, lambda state: several(state, param_shapes=[{"w": torch.Size([10**15])}, {}])),
    (MODEL_STATES, lambda state: several(state, param_shapes=[{"w": [2, 3]}])),
    (MODEL_STATES, lambda state: several(state, buffer_names=5)),
    (MODEL_STATES, lambda state: several(state, shared_params={"a": "b"})),
]


@pytest.mark.parametrize(("name", "change"), WRONG_STATES)
def test_states_of_another_form_are_one_sentence(
    name: str, change: Callable[[Any], object], two_ranks: Path, tmp_path: Path
) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    change_file(folder / name, change)
    seal(folder)
    with pytest.raises(ValueError, match="does not hold what DeepSpeed saves") as error:
        convert(ConvertOptions(folder, tmp_path / "out"))
    assert len(str(error.value).splitlines()) == 1


def buffer_of(value: torch.Tensor, name: str = "x") -> Callable[[Any], object]:
    return lambda state: several(state, buffer_names=[name], module={**state["module"], name: value})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (MODEL_STATES, buffer_of(torch.zeros(3)), "does not hold the network of its config.json"),
        (MODEL_STATES, buffer_of(torch.zeros(3), "mlm_head.bias"), "does not hold the network of its config.json"),
        (MODEL_STATES, buffer_of(torch.zeros(1).expand(10**13)), r"saves \(one value many times"),
        (
            OPTIMIZER_STATES,
            lambda state: state["optimizer_state_dict"]["fp32_flat_groups"][0].fill_(torch.nan),
            "has NaN or infinity for",
        ),
        (OPTIMIZER_STATES, lambda state: several(state["optimizer_state_dict"], zero_stage=2), r"saves \(no /"),
    ],
    ids=["buffer", "buffer of a parameter's name", "huge buffer", "NaN", "file of another stage"],
)
def test_no_command_works_with_buffers_or_weights_that_no_run_has(
    name: str,
    change: Callable[[Any], object],
    message: str,
    commands: dict[str, Callable[[Path], object]],
    two_ranks: Path,
    tmp_path: Path,
) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    for path in folder.glob(name.replace("rank_1", "rank_*")):
        change_file(path, change)
    seal(folder)
    for command in ("convert", "convert a run", "masked_words", "masked_patches"):
        with pytest.raises(ValueError, match=message) as error:
            commands[command](folder)
        assert len(str(error.value).splitlines()) == 1


def test_moments_that_are_not_flat_tensors_of_numbers_are_refused(two_ranks: Path, tmp_path: Path) -> None:
    folder = copy_of_run(two_ranks, tmp_path / "run")
    wrong = [torch.zeros(1).expand(53832), torch.zeros(53832).half(), torch.zeros(3), "moment", torch.zeros(2, 26916)]
    for moment in wrong:

        def change(state: Any, moment: Any = moment) -> None:
            state["optimizer_state_dict"]["optimizer_state_dict"]["state"][0]["exp_avg"] = moment

        change_file(folder / OPTIMIZER_STATES, change)
        with pytest.raises(ValueError, match="does not hold what DeepSpeed saves"):
            moments(folder)
