"""Whole runs of eight steps in real processes: the same on any topology, exact after a stop. CPU, half a minute."""

import json
import math
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from data_pipeline.loading.dataset import StepDataset
from data_pipeline.write_shards import ShardOptions, write_shards
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import WeightKind
from pretrain.jobs.codebook_step import CODEBOOK_FIGURES
from pretrain.jobs.micro_step import make_micro_step
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.stop import EXIT_STOPPED, EXIT_STOPPED_BY_FILE
from tests.support.faults import few_now
from tests.support.launch import ROOT, Ended, RankProcess, run_ranks
from tests.support.separate_vectors import separate_vectors
from tests.support.tiny_run import TinyData

NUM_STEPS = 8


def train(num_ranks: int, data: TinyData, run_dir: Path, *extra: object, **options: Any) -> Ended:
    return run_ranks(num_ranks, "pretrain.train", ["demo", *data.overrides(run_dir), *extra], **options)


def losses(run_dir: Path) -> list[dict[str, Any]]:
    log = read_log(run_dir)
    assert [record["step"] for record in log] == list(range(NUM_STEPS))
    return [{name: record[name] for name in ("loss", "losses", "grad_norm")} for record in log]


def sample_keys(run_dir: Path) -> list[list[str]]:
    return [record["keys"] for record in read_log(run_dir)]


def test_losses_fall_and_every_objective_is_logged(two_ranks: Path) -> None:
    records = losses(two_ranks)
    assert set(records[0]["losses"]) == {"mim", "mlm", "mvlm_image", "mvlm_text"}
    # both have targets in every step; mvlm_image is missing if all pairs of a step keep their image whole
    first, last = (record["losses"]["mlm"] + record["losses"]["mvlm_text"] for record in (records[0], records[-1]))
    assert last < first


@pytest.mark.parametrize(("num_ranks", "micro_steps"), few_now([], [(1, 2), (1, 1), (2, 2)]))
def test_another_topology_sees_the_same_samples_and_losses(
    num_ranks: int, micro_steps: int, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    micro = ["--gradient-accumulation-steps", micro_steps]
    ended = train(num_ranks, tiny_data, run_dir, *micro, fresh=num_ranks == 1)  # as if started by a user
    assert set(ended.exit_codes) == {0}, ended.stderr
    assert sample_keys(run_dir) == sample_keys(two_ranks)
    num_tokens = [record["num_tokens"] for record in read_log(run_dir)]
    assert num_tokens == [record["num_tokens"] for record in read_log(two_ranks)] and len(set(num_tokens)) > 1
    for here, there in zip(losses(run_dir), losses(two_ranks), strict=True):
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-4)
        assert here["losses"] == pytest.approx(there["losses"], abs=1e-4)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        pytest.param(signal.SIGINT, [], marks=pytest.mark.slow, id="INT"),
        pytest.param(signal.SIGTERM, ["--data.num-workers", "1"], id="TERM"),
    ],
)
def test_stopped_and_resumed_equals_undisturbed_to_the_bit(
    number: signal.Signals, workers: list[str], two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"

    def stop_one_rank(processes: list[RankProcess]) -> None:
        log = run_dir / LOG_NAME
        while processes[0].poll() is None and not (log.exists() and len(read_log(run_dir)) >= 2):
            time.sleep(0.005)
        for child in psutil.Process(processes[1].pid).children():  # its loader, as if a process group is signalled
            child.send_signal(number)
        processes[1].send_signal(number)  # the other rank must stop too

    stopped = train(2, tiny_data, run_dir, *workers, while_running=stop_one_rank)
    assert stopped.exit_codes == [EXIT_STOPPED, EXIT_STOPPED], stopped.stderr
    done = len(read_log(run_dir))
    assert 2 <= done < NUM_STEPS

    resumed = train(2, tiny_data, run_dir, *workers, "--deterministic")  # the same bits on a CPU
    assert resumed.exit_codes == [0, 0], resumed.stderr
    assert re.search(rf"continues at step {done}: 2 ranks on cpu, \w+, deterministic$", resumed.stdout[0], re.MULTILINE)
    assert sample_keys(run_dir) == sample_keys(two_ranks)
    assert losses(run_dir) == losses(two_ranks)


def test_a_run_is_not_resumed_with_other_settings(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    run_dir = shutil.copytree(two_ranks, tmp_path / "run")
    ended = train(1, tiny_data, run_dir, "--optimizer.peak-lr", 0.5)
    assert ended.exit_codes == [2]
    assert "was started with different settings (optimizer.peak_lr" in ended.stderr[0]
    assert "); give those of its start, or a new run_dir" in ended.stderr[0]


def test_other_data_are_named_by_their_folders_and_files_and_a_finished_run_is_left_alone(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir, other = shutil.copytree(two_ranks, tmp_path / "run"), tmp_path / "pairs"
    write_shards(ShardOptions("pair", "scenes:44", other, samples_per_shard=9))
    tokenizer = tmp_path / "tokenizer.pt"
    tokenizer.write_bytes((tiny_data.folder / "visual_tokenizer.pt").read_bytes())
    moved = ["--data.images", shutil.copytree(tiny_data.folder / "images", tmp_path / "images")]  # the same contents
    settings = ["--data.pairs", other, "--visual-tokenizer", tokenizer, *moved]
    ended = train(1, tiny_data, run_dir, *settings)
    assert ended.exit_codes == [2], ended.stderr
    difference = f"pairs of {tiny_data.folder / 'pairs'} at its start, pairs of {other} now, with other contents"
    remedy = "give those of its start, or a new run_dir; --allow-data-change takes these"
    sentence = f"error: {run_dir} was started with different data ({difference}); {remedy}"
    assert sentence in ended.stderr[0].splitlines()
    allowed = train(2, tiny_data, run_dir, *settings, "--allow-data-change")
    assert allowed.exit_codes == [0, 0]
    assert f"warning: {run_dir} continues with different data ({difference})" in allowed.stderr[0].splitlines()
    assert (run_dir / LOG_NAME).read_bytes() == (two_ranks / LOG_NAME).read_bytes()


def test_the_first_losses_are_those_of_guessing_evenly(two_ranks: Path) -> None:
    """Compare with docs/glossary.md: ln of the number of codes or words."""
    first, config = read_log(two_ranks)[0]["losses"], find_checkpoint(two_ranks, PretrainConfig).config
    codes, words = math.log(config.model.num_visual_tokens), math.log(config.model.vocab_size)
    expected = {"mim": codes, "mlm": words, "mvlm_image": codes, "mvlm_text": words}
    assert first == pytest.approx(expected, rel=0.1)


def test_every_field_of_the_log_is_in_the_glossary(two_ranks: Path) -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    last = read_log(two_ranks)[-1]
    names = {*last, *last["losses"], *CODEBOOK_FIGURES, "codebook", "cosine", "commitment", "mfu"}
    assert {name for name in names if f"`{name}`" not in glossary} == set()


def test_a_network_of_smaller_patches_gets_its_codes_from_a_larger_view(tiny_data: TinyData, tmp_path: Path) -> None:
    ended = train(  # 8 x 8 patches; the tokenizer's are 6 x 6
        1, tiny_data, tmp_path, "--model.patch-size", 6, "--objective.whole-image-share", 0, "--num-steps", 1
    )
    assert ended.exit_codes == [0], ended.stderr
    config = find_checkpoint(tmp_path, PretrainConfig).config
    tokenizer = load_visual_tokenizer(config.visual_tokenizer)
    assert (config.model.grid_size, tokenizer.config.grid_size) == (8, 6)
    dataset = StepDataset(config.data, config.samples_per_step, 64, config.seed)
    assert dataset.tokenizer is not None
    micro = make_micro_step(config, dataset[0], tokenizer, dataset.tokenizer)
    expected = tokenizer.tokenize(dataset[0].images / 255).gather(1, micro.targets.image_positions)
    assert micro.targets.image_positions.max() > 36
    assert torch.equal(micro.targets.visual_token_ids, expected)


@pytest.mark.parametrize(
    "starts",
    [
        pytest.param([(1, 2, 2), (4, 3, 1)], id="all"),
        pytest.param([(1, 3, 1), (4, 3, 1), (2, 3, 1)], marks=pytest.mark.slow, id="ranks"),
        pytest.param([(2, 2, 1), (1, 1, 2), (2, 3, 2)], marks=pytest.mark.slow, id="stages"),
    ],
)
def test_a_run_resumes_with_another_topology(
    starts: list[tuple[int, int, int]], two_ranks: Path, saved_run: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Change ranks, ZeRO stage and accumulation at each start, from two ranks, stage 3 and no accumulation: the samples
    are the same, and the losses up to rounding."""
    run_dir = saved_run
    for start, (num_ranks, stage, micro_steps) in enumerate(starts):
        config = {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
        deepspeed_config = tmp_path / f"stage{stage}.json"
        deepspeed_config.write_text(json.dumps(config))
        settings = ["--gradient-accumulation-steps", micro_steps]
        if stage != 3:
            settings += ["--deepspeed-config", deepspeed_config]
        is_last = start == len(starts) - 1
        if not is_last:
            (run_dir / "stop").touch()  # one step each
        ended = train(num_ranks, tiny_data, run_dir, *settings)
        assert ended.exit_codes == [0 if is_last else EXIT_STOPPED_BY_FILE] * num_ranks, ended.stderr
        assert [path.name for path in (run_dir / "checkpoints").iterdir() if "partial" in path.name] == []
    assert sample_keys(run_dir) == sample_keys(two_ranks)
    for here, there in zip(losses(run_dir), losses(two_ranks), strict=True):
        assert here["losses"] == pytest.approx(there["losses"], abs=1e-4)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-4)
    kinds: tuple[WeightKind, ...] = ("ema", "raw")
    average, weights = (dict(checkpoint_weights(find_checkpoint(run_dir), weights=kind)) for kind in kinds)
    expected = dict(checkpoint_weights(find_checkpoint(two_ranks), weights="ema"))
    assert max(float((average[name] - expected[name]).abs().max()) for name in expected) < 2e-5
    assert max(float((weights[name] - expected[name]).abs().max()) for name in expected) > 1e-4


@pytest.mark.parametrize("stage", few_now([3], [2]))
def test_float32_weights_are_exact_under_bfloat16_on_a_number_of_ranks_that_divides_nothing(
    stage: int, tiny_data: TinyData, tmp_path: Path
) -> None:
    per_step = [word for kind in ("images", "pairs", "texts") for word in (f"--{kind}-per-step", 6)]
    per_step += ["--data.num-lanes", 3]
    still = ["--optimizer.peak-lr", 0, "--optimizer.min-lr", 0, "--optimizer.warmup-steps", 0, "--num-steps", 1]
    deepspeed_config = tmp_path / "ds.json"
    deepspeed_config.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    settings = ["--precision", "bfloat16", "--deepspeed-config", deepspeed_config]
    ended = train(3, tiny_data, tmp_path / "run", *per_step, *still, *settings)
    assert ended.exit_codes == [0] * 3, ended.stderr
    checkpoint = find_checkpoint(tmp_path / "run", PretrainConfig)
    model = MaskedDataModel(checkpoint.config.model)
    init_weights(model, checkpoint.config.model, checkpoint.config.seed)
    assert model.state_dict().keys() == (weights := dict(checkpoint_weights(checkpoint))).keys()
    assert all(torch.equal(weights[name], expected) for name, expected in model.state_dict().items())


@pytest.mark.slow
def test_another_layout_of_the_same_stage_is_the_same_run(
    two_ranks: Path, saved_run: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    deepspeed_config = tmp_path / "ds.json"
    zero = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text())["zero_optimization"]
    deepspeed_config.write_text(json.dumps({"zero_optimization": {**zero, "sub_group_size": 5000}}))
    ended = train(2, tiny_data, saved_run, "--deepspeed-config", deepspeed_config)
    assert ended.exit_codes == [0, 0] and "continues at step 4" in ended.stdout[0], ended.stderr
    for here, there in zip(losses(saved_run), losses(two_ranks), strict=True):
        assert here["losses"] == pytest.approx(there["losses"], abs=1e-4)


def test_a_checkpoint_from_before_vectors_were_stacked_is_resumed_to_the_bit(
    two_ranks: Path, saved_run: Path, tiny_data: TinyData
) -> None:
    separate_vectors(saved_run / "checkpoints" / "step_00000004")
    ended = train(2, tiny_data, saved_run)
    assert ended.exit_codes == [0, 0] and "continues at step 4" in ended.stdout[0], ended.stderr
    assert losses(saved_run) == losses(two_ranks)


def test_the_checkpoint_carries_its_config_and_manifest(two_ranks: Path) -> None:
    (folder,) = (two_ranks / "checkpoints").glob("step_*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == NUM_STEPS and manifest["world_size"] == 2
    on_disk = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk >= {"config.json", "beit3.spm"}
