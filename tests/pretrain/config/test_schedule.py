"""Changes of the number of steps that a resumed run may make. CPU, no time."""

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import Schedule
from pretrain.config.schedule import BY_COSINE, check_schedule, decay_start, schedule_changes
from pretrain.recipes.small import demo


def config(schedule: Schedule, num_steps: int, decay_steps: int = 0) -> PretrainConfig:
    optimizer = replace(demo().optimizer, schedule=schedule, decay_steps=decay_steps, warmup_steps=2)
    return replace(demo(), num_steps=num_steps, optimizer=optimizer, run_dir=Path("run"))


WSD, COSINE, CONSTANT = config("wsd", 100, 20), config("cosine", 100), config("constant", 100)


def test_only_wsd_has_a_decay_that_begins_somewhere() -> None:
    assert [decay_start(each) for each in (WSD, COSINE, CONSTANT)] == [80, None, None]


def test_under_cosine_nothing_may_change_and_the_reason_is_given() -> None:
    assert schedule_changes(COSINE, COSINE) == []
    assert schedule_changes(COSINE, config("cosine", 200)) == [f"num_steps was 100, is now 200: {BY_COSINE}"]
    assert schedule_changes(COSINE, CONSTANT) == [f"optimizer.schedule was cosine, is now constant: {BY_COSINE}"]
    assert schedule_changes(WSD, COSINE) == [
        f"optimizer.schedule was wsd, is now cosine: {BY_COSINE}",
        f"optimizer.decay_steps was 20, is now 0: {BY_COSINE}",
    ]
    assert schedule_changes(WSD, config("wsd", 300, 50)) == schedule_changes(CONSTANT, WSD) == []


@pytest.mark.parametrize(
    ("before", "now", "done"),
    [
        (WSD, config("wsd", 300, 20), 80),  # prolonged where the decay would have begun
        (WSD, config("wsd", 300, 90), 10),
        (WSD, config("wsd", 60, 20), 40),  # ended well from now on
        (WSD, config("wsd", 50, 10), 40),
        (WSD, CONSTANT, 80),
        (WSD, WSD, 90),  # inside the decay, as planned
        (CONSTANT, config("wsd", 120, 20), 100),
        (CONSTANT, config("constant", 500), 100),  # complete
        (CONSTANT, config("constant", 60), 60),
        (COSINE, COSINE, 100),
    ],
)
def test_a_run_goes_on_if_the_steps_done_keep_their_learning_rates(
    before: PretrainConfig, now: PretrainConfig, done: int
) -> None:
    check_schedule(before, now, done, [done])


@pytest.mark.parametrize(
    ("before", "now", "done", "kept", "sentence"),
    [
        (
            WSD, config("wsd", 300, 20), 100, [60, 80, 90, 100],
            "run is at step 100, inside the decay that began at step 80, so its settings cannot change (num_steps was "
            "100, is now 300); to go on from step_00000080, which is from before the decay, move the checkpoints after "
            "it out of run/checkpoints",
        ),
        (
            WSD, CONSTANT, 81, [81],
            "run is at step 81, inside the decay that began at step 80, so its settings cannot change "
            "(optimizer.schedule was wsd, is now constant; optimizer.decay_steps was 20, is now 0); no checkpoint from "
            "before the decay is kept: give the settings of its start to finish it, or start a new run from its "
            "weights",
        ),
        (
            WSD, config("wsd", 70, 20), 90, [40, 60, 80, 90],
            "run is at step 90, inside the decay that began at step 80, so its settings cannot change (num_steps was "
            "100, is now 70); to go on from step_00000040, which is from before the decay, move the checkpoints after "
            "it out of run/checkpoints",
        ),
        (
            WSD, config("wsd", 70, 20), 60, [60],
            "num_steps 70 is too low: 60 steps are done, and a decay of 20 steps can begin now at the earliest; give "
            "num_steps 80 or more, or fewer decay_steps",
        ),
        (
            CONSTANT, config("constant", 50), 60, [60],
            "num_steps 50 is below the 60 steps that are done; give 60 or more",
        ),
    ],
)  # fmt: skip
def test_a_change_that_comes_too_late_is_refused_with_the_remedy(
    before: PretrainConfig, now: PretrainConfig, done: int, kept: list[int], sentence: str
) -> None:
    with pytest.raises(ValueError) as refused:
        check_schedule(before, now, done, kept)
    assert str(refused.value) == sentence


def test_warmup_and_decay_must_fit_into_the_run() -> None:
    message = r"optimizer.warmup_steps 2 and optimizer.decay_steps 9 do not fit into num_steps 10; lower one of them"
    with pytest.raises(ValueError, match=message):
        config("wsd", 10, 9)
