"""Evaluation in whole runs: it does not disturb training, and its figures are those of any topology. CPU."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoints.best import EVALUATIONS_NAME, read_best
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.conversion.convert import convert
from pretrain.conversion.evaluated import evaluate_source
from pretrain.conversion.options import ConvertOptions
from pretrain.evaluation.options import EvaluateOptions
from pretrain.evaluation.records import read_evaluations
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.reporting.options import ReportOptions
from pretrain.reporting.pictures import pictures_of
from pretrain.reporting.run_files import read_run
from pretrain.run.run_log import read_log
from pretrain.survival.stop import EXIT_STOPPED_BY_FILE
from tests.support.evaluated import CHUNK, NUM_SAMPLES, evaluation_overrides, write_captioned_classes, write_labelled
from tests.support.faults import arguments_of, broken
from tests.support.launch import ROOT, Ended, RankProcess, run_ranks
from tests.support.tiny_run import TinyData

NUM_STEPS = 8
STEPS = [0, 3, 6, 8]
NAMES = {
    *("loss/mim", "loss/mlm", "loss/mvlm_image", "loss/mvlm_text", "loss/total", "patches/acc"),
    *("words/acc_right_image", "words/acc_wrong_image", "words/acc_commonest", "words/nll_right_image"),
    *("codebook/usage", "codebook/perplexity", "patches/acc_commonest", "knn/acc", "probe/acc"),
}


def train(num_ranks: int, data: TinyData, run_dir: Path, *extra: object, **options: Any) -> Ended:
    return run_ranks(num_ranks, "pretrain.train", ["demo", *data.overrides(run_dir), *extra], **options)


def trajectory(run_dir: Path) -> list[dict[str, Any]]:
    log = read_log(run_dir)
    assert [record["step"] for record in log] == list(range(NUM_STEPS))
    return [{name: record[name] for name in ("loss", "losses", "grad_norm", "keys")} for record in log]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint_weights(find_checkpoint(run_dir, PretrainConfig)))


def figures(run_dir: Path, kind: str = "raw") -> dict[int, dict[str, float]]:
    lines = read_evaluations(run_dir)
    assert all(line["weights"] in ("raw", "ema") and line["seconds"] > 0 for line in lines)
    return {line["step"]: line["figures"] for line in lines if line["weights"] == kind}


def assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    """Compare losses to 1e-5, counts exactly."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-5 if name.startswith("loss/") or "nll" in name else 0
        assert found[name] == pytest.approx(value, abs=tolerance), name


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "images")


@pytest.fixture(scope="module")
def evaluated(tiny_data: TinyData, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of two ranks of `two_ranks`, evaluated while it trains."""
    run_dir = tmp_path_factory.mktemp("evaluated") / "run"
    ended = train(2, tiny_data, run_dir, *evaluation_overrides(tiny_data, labelled))
    assert ended.exit_codes == [0, 0], ended.stderr
    assert ended.stdout[0].count("evaluated after step ") == 2 * len(STEPS)  # weights as trained and averaged
    assert f"warning: evaluation.pairs {tiny_data.folder / 'pairs'} holds the samples of" in ended.stderr[0]
    return run_dir


def test_evaluation_leaves_training_as_it_is_to_the_bit(evaluated: Path, two_ranks: Path) -> None:
    assert trajectory(evaluated) == trajectory(two_ranks)
    expected, found = weights(two_ranks), weights(evaluated)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(figures(evaluated)) == STEPS
    assert all(set(found) == NAMES for found in figures(evaluated).values())
    at_start, at_end = figures(evaluated)[0], figures(evaluated)[NUM_STEPS]
    assert at_end["loss/total"] < at_start["loss/total"]
    assert at_start["codebook/usage"] == at_end["codebook/usage"] > 0  # the tokenizer is frozen
    (checkpoint,) = (evaluated / "checkpoints").iterdir()
    lines = (checkpoint / EVALUATIONS_NAME).read_text().splitlines()
    assert [json.loads(line)["figures"] for line in lines] == [at_end, figures(evaluated, "ema")[NUM_STEPS]]
    assert figures(evaluated, "ema")[0] == at_start and figures(evaluated, "ema")[NUM_STEPS] != at_end


def test_the_command_gives_the_figures_of_the_run_for_checkpoint_and_export_again_to_the_bit(
    evaluated: Path, tmp_path: Path
) -> None:
    """Compare one process with the run's two ranks."""
    origin, found = evaluate_source(EvaluateOptions(evaluated))
    assert origin.startswith("step ") and "the weights as trained; " in origin
    assert_same(found, figures(evaluated)[NUM_STEPS])
    assert evaluate_source(EvaluateOptions(evaluated)) == (origin, found)
    origin, averaged = evaluate_source(EvaluateOptions(evaluated, weights="ema"))
    assert "the moving average of the weights; " in origin
    assert_same(averaged, figures(evaluated, "ema")[NUM_STEPS])
    convert(ConvertOptions(evaluated, tmp_path / "export", to="safetensors"))
    assert evaluate_source(EvaluateOptions(tmp_path / "export"))[1] == found


def test_options_of_other_networks_and_labels_without_a_class_are_said(
    evaluated: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="--class-names is not for a network of masked data modeling"):
        evaluate_source(EvaluateOptions(evaluated, class_names=tmp_path / "names.txt"))
    labels = write_captioned_classes(tmp_path / "labels", ["cat", "cat", "\n", "dog", "dog"])
    options = EvaluateOptions(evaluated, labelled=str(labels), parts=("knn",))
    assert evaluate_source(options)[1].keys() == {"knn/acc"}
    said = f"skipped 1 samples of {labels}: text has no visible character"
    assert said in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "extra"), [(1, []), (4, []), (2, ["--gradient-accumulation-steps", 2])])
def test_figures_do_not_depend_on_ranks_and_micro_steps(
    num_ranks: int, extra: list[object], evaluated: Path, tiny_data: TinyData, labelled: Path, tmp_path: Path
) -> None:
    """Compare the untrained network, and the trained one up to the rounding of its training."""
    arguments = [*evaluation_overrides(tiny_data, labelled), *extra]
    ended = train(num_ranks, tiny_data, tmp_path / "run", *arguments)
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    assert_same(figures(tmp_path / "run")[0], figures(evaluated)[0])
    found = figures(tmp_path / "run")[NUM_STEPS]
    for name, value in figures(evaluated)[NUM_STEPS].items():
        assert found[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_checkpoint_has_the_same_figures_on_any_number_of_ranks(
    num_ranks: int, two_ranks: Path, evaluated: Path, tiny_data: TinyData, labelled: Path, tmp_path: Path
) -> None:
    """Resume a finished run that was never evaluated: it is evaluated once, on other ranks."""
    run_dir = shutil.copytree(two_ranks, tmp_path / "run")
    ended = train(num_ranks, tiny_data, run_dir, *evaluation_overrides(tiny_data, labelled))
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    assert list(figures(run_dir)) == [NUM_STEPS]
    assert_same(figures(run_dir)[NUM_STEPS], figures(evaluated)[NUM_STEPS])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["zero1", "zero2"])
def test_evaluation_leaves_training_as_it_is_under_other_stages(
    stage: str, tiny_data: TinyData, labelled: Path, tmp_path: Path
) -> None:
    settings = ["--deepspeed-config", ROOT / "ds_configs" / f"{stage}.json"]
    for name, extra in (("off", []), ("on", evaluation_overrides(tiny_data, labelled))):
        ended = train(2, tiny_data, tmp_path / name, *settings, *extra)
        assert ended.exit_codes == [0, 0], ended.stderr
    assert trajectory(tmp_path / "on") == trajectory(tmp_path / "off")
    expected, found = weights(tmp_path / "off"), weights(tmp_path / "on")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_run_stopped_where_an_evaluation_is_due_makes_it_when_it_resumes(
    evaluated: Path, two_ranks: Path, tiny_data: TinyData, labelled: Path, tmp_path: Path
) -> None:
    run_dir, arguments = tmp_path / "run", evaluation_overrides(tiny_data, labelled)

    def stop_after_two_steps(processes: list[RankProcess]) -> None:
        while (processes[0].poll() is None and not (run_dir / "log.jsonl").exists()) or len(read_log(run_dir)) < 2:
            time.sleep(0.005)
        (run_dir / "stop").touch()

    stopped = train(2, tiny_data, run_dir, *arguments, while_running=stop_after_two_steps)
    assert stopped.exit_codes == [EXIT_STOPPED_BY_FILE] * 2, stopped.stderr
    resumed = train(2, tiny_data, run_dir, *arguments)
    assert resumed.exit_codes == [0, 0], resumed.stderr
    assert trajectory(run_dir) == trajectory(two_ranks)
    assert figures(run_dir)[NUM_STEPS] == figures(evaluated)[NUM_STEPS]
    assert figures(run_dir)[0] == figures(evaluated)[0]


@pytest.mark.slow
def test_a_rank_that_is_killed_while_it_evaluates_changes_no_figure(
    evaluated: Path, two_ranks: Path, tiny_data: TinyData, labelled: Path, tmp_path: Path
) -> None:
    run_dir, arguments = tmp_path / "run", evaluation_overrides(tiny_data, labelled)
    killed = broken(tiny_data, run_dir, *arguments, point="evaluating", rank=1, step=5, action="kill")
    assert 0 not in killed.exit_codes and list(figures(run_dir)) == [0, 3]
    ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, run_dir), *arguments])
    assert ended.exit_codes == [0, 0] and "continues at step" in ended.stdout[0], ended.stderr
    assert trajectory(run_dir) == trajectory(two_ranks)
    assert figures(run_dir) == figures(evaluated)


@pytest.mark.slow
def test_a_visual_tokenizer_is_evaluated_without_disturbing_its_training(tiny_data: TinyData, tmp_path: Path) -> None:
    images = tiny_data.folder / "images"
    data = ["--data.images", images, "--num-steps", 6, "--images-per-step", 16, "--model.num-codes", 64]
    data += ["--deepspeed-config", ROOT / "ds_configs" / "zero3_cpu.json"]
    on = ["--evaluation.images", images, "--evaluation.every-steps", 2, "--evaluation.num-samples", NUM_SAMPLES]
    found = []
    for num_ranks, name, extra in ((2, "on", on), (2, "off", ["--evaluation.every-steps", 0]), (1, "one", on)):
        where = ["--run-dir", tmp_path / name, "--out", tmp_path / f"{name}.pt"]
        ended = run_ranks(num_ranks, "pretrain.train_visual_tokenizer", ["demo", *data, *where, *extra])
        assert ended.exit_codes == [0] * num_ranks, ended.stderr
        log = read_log(tmp_path / name)
        found.append([(record["loss"], record["grad_norm"], record["codebook"]) for record in log])
    assert found[0] == found[1]
    on_weights, off_weights = (load_visual_tokenizer(tmp_path / f"{name}.pt").state_dict() for name in ("on", "off"))
    assert all(torch.equal(on_weights[name], tensor) for name, tensor in off_weights.items())
    here, alone = figures(tmp_path / "on"), figures(tmp_path / "one")
    assert list(here) == list(alone) == [2, 4, 6]  # no codebook before the first step
    for step, expected in here.items():
        assert alone[step] == pytest.approx(expected, abs=1e-4)
    assert here[6]["loss/total"] < here[2]["loss/total"]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_named(tiny_data: TinyData, tmp_path: Path) -> None:
    """Take the highest loss as the best, so that it is not the newest."""
    run_dir = tmp_path / "run"
    best = ["--evaluation.best", "loss/mlm", "--evaluation.best-is", "highest", "--keep-checkpoints", 1]
    arguments = [*evaluation_overrides(tiny_data, every=2), *best, "--save-every-steps", 2]
    ended = train(2, tiny_data, run_dir, *arguments)
    assert ended.exit_codes == [0, 0], ended.stderr
    by_step = {step: found["loss/mlm"] for step, found in figures(run_dir).items() if step}
    highest = max(by_step, key=by_step.__getitem__)
    found = read_best(run_dir / "checkpoints")
    assert found is not None and (found.step, found.value) == (highest, by_step[highest])
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"best", f"step_{highest:08d}", f"step_{NUM_STEPS:08d}"}
    assert find_checkpoint(run_dir / "checkpoints" / "best", PretrainConfig).step == highest


def contrast(num_ranks: int, data: TinyData, labelled: Path, run_dir: Path, *extra: object) -> Path:
    """Train a dual encoder from random weights in three steps, evaluated before the first and after the last."""
    values = {
        "data.pairs": data.folder / "pairs",
        "data.text-tokenizer": data.folder / "text_tokenizer.spm",
        "run-dir": run_dir,
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
        "model.dim": 48,
        "model.ffn-dim": 64,
        "num-steps": 3,
        "pairs-per-step": 12,
        "data.num-lanes": 12,
        "optimizer.warmup-steps": 1,
        "monitors.tensorboard": "off",
        "evaluation.pairs": data.folder / "pairs",
        "evaluation.labelled": labelled,
        "evaluation.num-samples": NUM_SAMPLES,
        "evaluation.chunk-size": CHUNK,
        "initial-weights": None,
    }
    arguments = [word for name, value in values.items() for word in (f"--{name}", value)]
    ended = run_ranks(num_ranks, "pretrain.contrast", ["contrast_demo", *arguments, *extra])
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    assert "holds the samples of" in ended.stderr[0]  # it is evaluated on what it trains on
    return run_dir


@pytest.mark.slow
def test_a_contrastive_run_has_the_same_figures_on_any_number_of_ranks(
    tiny_data: TinyData, labelled: Path, tmp_path: Path
) -> None:
    """Compare the untrained network on 1, 2 and 3 ranks under ZeRO-3, and the trained one with a single process."""
    runs = [contrast(num_ranks, tiny_data, labelled, tmp_path / str(num_ranks)) for num_ranks in (1, 2, 3)]
    expected = figures(runs[0])[0]
    assert len(expected) == 10 and {"loss/contrastive", "retrieval/text_to_image_r1", "zero_shot/acc1"} <= {*expected}
    for run_dir in runs:
        assert_same(figures(run_dir)[0], expected)
        assert_same(evaluate_source(EvaluateOptions(run_dir))[1], figures(run_dir)[3])
    convert(ConvertOptions(runs[1], tmp_path / "export", to="safetensors"))
    assert evaluate_source(EvaluateOptions(tmp_path / "export"))[1] == evaluate_source(EvaluateOptions(runs[1]))[1]
    shown = pictures_of(read_run(runs[1]), ReportOptions((runs[1],), num_images=2))
    assert shown.missing == [] and shown.retrieval is not None and len(shown.retrieval.images) == 2


@pytest.mark.slow
def test_a_contrastive_run_keeps_its_best_checkpoint(tiny_data: TinyData, labelled: Path, tmp_path: Path) -> None:
    best = ["--evaluation.best", "retrieval/text_to_image_r10", "--evaluation.best-is", "highest"]
    every = ["--evaluation.every-steps", 1, "--save-every-steps", 1, "--keep-checkpoints", 1]
    run_dir = contrast(2, tiny_data, labelled, tmp_path / "run", *best, *every)
    by_step = {step: found["retrieval/text_to_image_r10"] for step, found in figures(run_dir).items() if step}
    found = read_best(run_dir / "checkpoints")
    assert found is not None and found.value == max(by_step.values()) == by_step[found.step]
    assert evaluate_source(EvaluateOptions(run_dir / "checkpoints" / "best"))[0].startswith(f"step {found.step} ")
