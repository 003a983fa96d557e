"""The error budget of a run, across restarts. CPU, seconds."""

from pathlib import Path

import pytest

from data_pipeline.samples.sample import BadSample
from pretrain.survival.agreement import FatalRunError
from pretrain.survival.bad_samples import BAD_SAMPLES_NAME, BadSampleBudget, read_bad_samples
from tests.support.mistakes import only_rank

TRUNCATED, EMPTY = (
    BadSample("shard_0.tar", "a", "image cannot be decoded (truncated)"),
    BadSample("s1.tar", "b", "empty"),
)


def test_a_sample_counts_once_however_often_it_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    budget = BadSampleBudget(tmp_path, 2)
    with only_rank():
        budget.add(3, [TRUNCATED])
        budget.add(4, [TRUNCATED, EMPTY])
    assert [(line["step"], line["key"]) for line in read_bad_samples(tmp_path)] == [(3, "a"), (4, "b")]
    assert capfd.readouterr().err.count("skipped ") == 2


def test_a_spent_budget_ends_the_run_with_a_report(tmp_path: Path) -> None:
    budget = BadSampleBudget(tmp_path, 1)
    with only_rank(), pytest.raises(FatalRunError) as ended:
        budget.add(0, [TRUNCATED, EMPTY])
    assert str(ended.value) == (
        "2 bad samples exceed data.max_bad_samples 1: 1 x image cannot be decoded, 1 x empty; "
        f"most in shard_0.tar (1), s1.tar (1); all are in {tmp_path / BAD_SAMPLES_NAME}"
    )


def test_a_resumed_run_counts_the_samples_before_its_checkpoint_and_forgets_the_others(tmp_path: Path) -> None:
    with only_rank():
        BadSampleBudget(tmp_path, 9).add(3, [TRUNCATED])
        before = BadSampleBudget(tmp_path, 9)
        before.read(4)
        before.add(5, [EMPTY])
    resumed = BadSampleBudget(tmp_path, 9)
    resumed.read(5)
    assert list(resumed.samples) == [("shard_0.tar", "a")]
    resumed.write(5)
    assert [line["key"] for line in read_bad_samples(tmp_path)] == ["a"]


def test_a_list_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    budget = BadSampleBudget(tmp_path / "gone", 9)
    with only_rank():
        budget.add(0, [EMPTY])
    assert len(budget.samples) == 1 and f"{BAD_SAMPLES_NAME} cannot be written" in capfd.readouterr().err
