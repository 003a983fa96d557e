"""Training a visual tokenizer in real processes: any topology, exact resume, faults. CPU, about two minutes."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.checkpoints.reader import latest_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.formats.vqkd import load_vqkd
from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining
from pretrain.recipes import VISUAL_TOKENIZER_RECIPES
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.stop import EXIT_STOPPED, EXIT_STOPPED_BY_FILE
from tests.support.faults import few_now
from tests.support.launch import ROOT, Ended, RankProcess, run_ranks
from tests.support.mistakes import option_mistake, preparation_mistake
from tests.support.shared_folders import shared_folder
from tests.support.tiny_run import TinyData

NUM_STEPS = 30
FEW_STEPS = 12


def overrides(data: TinyData, run_dir: Path, num_steps: int = NUM_STEPS) -> list[object]:
    return [
        "demo",
        *("--data.images", data.folder / "images"),
        *("--data.color-jitter", 0.4, "--run-dir", run_dir, "--out", run_dir / "tokenizer.pt"),
        *("--num-steps", num_steps, "--images-per-step", 16, "--model.num-codes", 64, "--log-sample-keys"),
        *("--deepspeed-config", ROOT / "ds_configs" / "zero3_cpu.json", "--evaluation.every-steps", 0),
    ]


def train(num_ranks: int, arguments: list[object], **options: Any) -> Ended:
    return run_ranks(num_ranks, "pretrain.train_visual_tokenizer", arguments, **options)


def without_times(run_dir: Path) -> list[dict[str, Any]]:
    """Return the log without fields that differ between equal runs."""
    differ = ("seconds", "time", "data_wait", "memory_gib", "stop", "passes")
    return [{name: value for name, value in record.items() if name not in differ} for record in read_log(run_dir)]


@pytest.fixture(scope="session")
def undisturbed(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a run of thirty steps on two ranks. Read only."""
    with shared_folder(tmp_path_factory, "tokenizer", lambda run_dir: whole(overrides(tiny_data, run_dir))) as run_dir:
        yield run_dir


def whole(arguments: list[object]) -> None:
    ended = train(2, arguments)
    assert ended.exit_codes == [0, 0], ended.stderr


def test_it_learns_and_logs_how_the_codes_are_used(undisturbed: Path) -> None:
    log = read_log(undisturbed)
    assert [record["step"] for record in log] == list(range(NUM_STEPS))
    assert log[-1]["losses"]["cosine"] > log[0]["losses"]["cosine"] + 0.3
    for record in log:
        use = record["codebook"]
        assert 0 < use["usage"] <= use["live_share"] <= 1 <= use["perplexity"] <= 64


def test_every_rank_ends_with_the_same_codebook_to_the_bit_and_the_file_has_it(undisturbed: Path) -> None:
    (folder,) = (undisturbed / "checkpoints").glob("step_*")
    states = [
        torch.load(path, weights_only=False)["module"] for path in sorted(folder.glob("zero_pp_rank_*_model_states.pt"))
    ]
    assert len(states) == 2
    tokenizer = load_vqkd(undisturbed / "tokenizer.pt")
    for name, value in tokenizer.codebook.named_buffers(prefix="codebook"):
        assert torch.equal(states[0][name], states[1][name])
        if name != "codebook.steps_unused":
            assert torch.equal(states[0][name], value)


def published_pace(data: TinyData, run_dir: Path) -> list[object]:
    """Return overrides with BEiT v2's decay and learning rate; few codes, so that rounding changes no assignment."""
    pace = ["--codebook.decay", 0.99, "--optimizer.peak-lr", 2e-4, "--optimizer.min-lr", 1e-5, "--model.num-codes", 16]
    return [*overrides(data, run_dir, FEW_STEPS), *pace]


@pytest.fixture(scope="session")
def at_published_pace(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a run of twelve steps on two ranks. Read only."""

    def make(run_dir: Path) -> None:
        whole(published_pace(tiny_data, run_dir))

    with shared_folder(tmp_path_factory, "at_published_pace", make) as run_dir:
        yield run_dir


@pytest.mark.parametrize(("num_ranks", "micro_steps"), few_now([], [(1, 2), (1, 1), (2, 2)]))
def test_another_topology_gives_the_same_codebook(
    num_ranks: int, micro_steps: int, at_published_pace: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    ended = train(num_ranks, [*published_pace(tiny_data, tmp_path), "--gradient-accumulation-steps", micro_steps])
    assert set(ended.exit_codes) == {0}, ended.stderr
    check_same_codebook(tmp_path, at_published_pace)


def test_a_run_resumes_with_another_number_of_ranks(
    at_published_pace: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    arguments = published_pace(tiny_data, tmp_path)
    (tmp_path / "stop").touch()
    stopped = train(2, arguments)
    assert stopped.exit_codes == [EXIT_STOPPED_BY_FILE] * 2, stopped.stderr
    ended = train(1, arguments)
    assert ended.exit_codes == [0], ended.stderr
    check_same_codebook(tmp_path, at_published_pace)


def check_same_codebook(run_dir: Path, expected_run: Path) -> None:
    there, here = load_vqkd(expected_run / "tokenizer.pt"), load_vqkd(run_dir / "tokenizer.pt")
    torch.testing.assert_close(here.codebook.codes, there.codebook.codes, rtol=0, atol=1e-5)
    for record, expected in zip(read_log(run_dir), read_log(expected_run), strict=True):
        assert record["keys"] == expected["keys"]
        assert record["losses"] == pytest.approx(expected["losses"], abs=1e-5)
        assert record["codebook"] == pytest.approx(expected["codebook"], abs=1e-5)


def stop_after_five_steps(run_dir: Path) -> Callable[[list[RankProcess]], None]:
    def stop_one_rank(processes: list[RankProcess]) -> None:
        log = run_dir / LOG_NAME
        while processes[0].poll() is None and not (log.exists() and len(read_log(run_dir)) >= 5):
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGTERM)

    return stop_one_rank


@pytest.mark.slow
def test_stopped_and_resumed_equals_undisturbed_to_the_bit(
    undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    stopped = train(2, overrides(tiny_data, tmp_path), while_running=stop_after_five_steps(tmp_path))
    assert stopped.exit_codes == [EXIT_STOPPED, EXIT_STOPPED], stopped.stderr
    assert 5 <= len(read_log(tmp_path)) < NUM_STEPS
    resumed = train(2, overrides(tiny_data, tmp_path))
    assert resumed.exit_codes == [0, 0], resumed.stderr
    assert without_times(tmp_path) == without_times(undisturbed)
    there, here = (load_vqkd(folder / "tokenizer.pt").state_dict() for folder in (undisturbed, tmp_path))
    assert all(torch.equal(value, here[name]) for name, value in there.items())


class BreaksOnce:
    """A teacher whose output is not finite in the third step, on one rank."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        features = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        self.num_calls += 1
        if self.num_calls == 4 and torch.distributed.get_rank() == 1:  # the first call is a check before the run
            features = features * float("nan")
        return features


def breaks_once(weights: Path | None) -> BreaksOnce:
    """Return the teacher; for `--teacher.name tests.runs.test_train_visual_tokenizer.breaks_once`."""
    return BreaksOnce()


def test_a_step_that_is_not_finite_on_one_rank_leaves_the_codebook_alone(tiny_data: TinyData, tmp_path: Path) -> None:
    arguments = [*overrides(tiny_data, tmp_path, 6), "--teacher.name", f"{__name__}.breaks_once"]
    ended = train(2, arguments)
    assert ended.exit_codes == [0, 0], ended.stderr
    log = read_log(tmp_path)
    assert [record["skipped"] for record in log] == [False, False, True, False, False, False]
    assert "codebook" not in log[2] and log[2]["loss"] is None
    assert log[3]["losses"]["cosine"] is not None
    assert load_vqkd(tmp_path / "tokenizer.pt").codebook.codes.isfinite().all()


@pytest.mark.slow
def test_bfloat16_matrix_products_train_alike(undisturbed: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    ended = train(2, [*overrides(tiny_data, tmp_path, 10), "--precision", "bfloat16"])
    assert ended.exit_codes == [0, 0], ended.stderr
    log, expected = read_log(tmp_path), read_log(undisturbed)
    assert log[0]["losses"] != expected[0]["losses"]  # it is not computed in float32
    for record, other in zip(log[:5], expected[:5], strict=True):
        assert record["losses"] == pytest.approx(other["losses"], abs=0.02)
    assert load_vqkd(tmp_path / "tokenizer.pt").encoder.pos_embed.dtype == torch.float32


@pytest.mark.slow  # a hundred steps pass before a code counts as dead
def test_a_codebook_that_collapses_is_reported(tiny_data: TinyData, tmp_path: Path) -> None:
    arguments = [*overrides(tiny_data, tmp_path, 120), "--codebook.no-kmeans-start", "--codebook.revival-threshold", 0]
    ended = train(1, arguments)
    assert ended.exit_codes == [0], ended.stderr
    assert ended.stderr[0].count("warning: the codebook has collapsed") == 1
    assert read_log(tmp_path)[-1]["codebook"]["live_share"] < 0.5


def mistake(arguments: list[object]) -> str:
    return preparation_mistake(VisualTokenizerTraining, VISUAL_TOKENIZER_RECIPES, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model.num-codes", 1000], "a step of 16 images has 576 patches for 1000 codes"),
        (["--model.teacher-dim", 100], "6 x 6 patches of 192 dimensions"),
        (["--teacher.name", f"{__name__}.gives_nothing"], "the teacher gives NoneType; it must be a tensor"),
        (["--out", "/proc/nowhere/tokenizer.pt"], "out /proc/nowhere/tokenizer.pt cannot be written"),
        (["--out", "/tmp"], "out /tmp is a folder; give a file"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(
    change: list[object], message: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    assert message in mistake([*overrides(tiny_data, tmp_path), *change])


def test_a_setting_outside_its_range_is_reported_in_one_sentence(
    tiny_data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = ["--codebook.decay", 1.5]
    line = option_mistake(VISUAL_TOKENIZER_RECIPES, [*overrides(tiny_data, tmp_path), *change], capsys)
    assert "--codebook.decay 1.5 must be a number in [0, 1)" in line


def test_a_mistake_ends_all_ranks_with_one_sentence(tiny_data: TinyData, tmp_path: Path) -> None:
    ended = train(2, [*overrides(tiny_data, tmp_path), "--teacher.name", "nobody"])
    assert ended.exit_codes == [2, 2]
    (line,) = "".join(ended.stderr).splitlines()
    assert line.startswith("error: there is no teacher 'nobody'; teacher.name is one of")


def gives_nothing(weights: Path | None) -> Callable[[Tensor], None]:
    return lambda pixels: None


def test_a_finished_run_rewrites_its_file_and_is_not_resumed_with_other_settings(
    undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir, other = shutil.copytree(undisturbed, tmp_path / "run"), tmp_path / "elsewhere" / "tokenizer.pt"
    ended = train(2, [*overrides(tiny_data, run_dir), "--out", other])
    assert ended.exit_codes == [0, 0], ended.stderr
    there, here = load_vqkd(run_dir / "tokenizer.pt").state_dict(), load_vqkd(other).state_dict()
    assert all(torch.equal(value, here[name]) for name, value in there.items())
    assert "is complete" in ended.stdout[0]
    message = f"out {other} is there already, from another run; give another --out"
    assert message in mistake([*overrides(tiny_data, tmp_path / "new"), "--out", other])
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"a teacher's")
    change = ["--codebook.decay", 0.5, "--teacher.name", f"{__name__}.breaks_once", "--teacher.weights", weights]
    ended = train(1, [*overrides(tiny_data, run_dir), *change])
    assert ended.exit_codes == [2]
    for difference in ("codebook.decay was 0.9, is now 0.5", "teacher.name was ", "teacher (no file) at its start, "):
        assert difference in ended.stderr[0]


def test_pretraining_does_not_take_a_tokenizers_run_for_its_own(undisturbed: Path) -> None:
    with pytest.raises(ValueError, match="is a checkpoint of a visual tokenizer's training, not of pretraining"):
        latest_checkpoint(undisturbed, PretrainConfig)
