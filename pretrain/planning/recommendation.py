"""The setting that a plan recommends: the recipe's own, the fastest that fits, or what would make one fit."""

from dataclasses import dataclass
from typing import Any

from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.memory import micro_batch
from pretrain.planning.stages import SHIPPED, StagePlan, largest_micro_batch, remedies, way_of
from pretrain.planning.step_times import AssumedMachine, PredictedSetting

TIE = 1.01
"""Ratio of predicted times that the assumptions do not tell apart."""


@dataclass(frozen=True)
class Recommendation:
    """A setting to run, and the reason for it."""

    found: PredictedSetting | None
    """None if no setting fits."""
    sentence: str
    overrides: tuple[str, ...] = ()
    """Options that turn the recipe into the setting."""


def recommend(
    config: EncoderRunConfig,
    memory_config: dict[str, Any],
    stages: list[StagePlan],
    fitting: list[PredictedSetting],
    num_ranks: int,
    machine: AssumedMachine,
) -> Recommendation:
    """Return the recipe's own setting if it is as fast as the fastest that fits, else the fastest. fitting: the fastest
    first."""
    room = room_in_words(machine)
    if not fitting:
        return Recommendation(None, _nothing_fits(config, memory_config, stages, num_ranks, machine))
    best = fitting[0]
    own = next((found for found in fitting if found.setting.name == way_of(memory_config)), None)
    overrides = _overrides(config, memory_config, best)
    if own is None:
        return Recommendation(
            best,
            f"{config.deepspeed_config} does not fit {room}; the fastest that does: {_described(best)}.",
            overrides,
        )
    if own.time.seconds <= TIE * best.time.seconds:
        sentence = f"{config.deepspeed_config} is predicted to be as fast as any that fits {room}: {_described(own)}."
        return Recommendation(own, sentence, _overrides(config, memory_config, own))
    sentence = (
        f"ds_configs/{SHIPPED[best.setting.name]} is predicted to be the fastest that fits {room}: "
        f"{_described(best)}; {config.deepspeed_config}: {_described(own)}."
    )
    return Recommendation(best, sentence, overrides)


def micro_batch_sentence(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, machine: AssumedMachine
) -> str:
    """Return a sentence on the largest micro-batch that fits under the recipe's DeepSpeed file."""
    found, room = largest_micro_batch(config, memory_config, num_ranks, machine.room_gb), room_in_words(machine)
    if found is None:
        return f"Under {config.deepspeed_config} not even the smallest micro-batch fits {room}."
    steps, total = found
    whole = micro_batch(config, num_ranks)
    own = config.gradient_accumulation_steps
    counts = [
        f"{count * own // steps} {kind}" for kind, count in vars(whole).items() if count
    ]  # micro_batch has divided by the recipe's micro-steps already
    said = "as in the recipe" if steps == own else f"the recipe has {own}"
    return (
        f"Largest micro-batch under {config.deepspeed_config}: {', '.join(counts)} a rank, {total / 1e9:.1f} GB; "
        f"--gradient-accumulation-steps {steps} gives the recipe's batch ({said})."
    )


def room_in_words(machine: AssumedMachine) -> str:
    """Return the memory of a GPU and the reserve."""
    return f"{machine.gpu.memory_gb:g} GB with {machine.assumed.reserve_gb:g} GB in reserve"


def _nothing_fits(
    config: EncoderRunConfig,
    memory_config: dict[str, Any],
    stages: list[StagePlan],
    num_ranks: int,
    machine: AssumedMachine,
) -> str:
    least = min(stages, key=lambda stage: stage.memory.total)
    answers = list(remedies(config, memory_config, num_ranks, machine.room_gb))
    said = f"No stage fits {room_in_words(machine)}: stage {least.stage} needs {least.memory.total / 1e9:.1f} GB. "
    return said + ("; ".join(answers) + "." if answers else "Take more ranks or a smaller model.")


def _overrides(config: EncoderRunConfig, memory_config: dict[str, Any], found: PredictedSetting) -> tuple[str, ...]:
    setting = found.setting
    words: tuple[str, ...] = ()
    if setting.name != way_of(memory_config):
        words += ("--deepspeed-config", f"ds_configs/{SHIPPED[setting.name]}")
    if setting.micro_steps != config.gradient_accumulation_steps:
        words += ("--gradient-accumulation-steps", str(setting.micro_steps))
    return words


def _described(found: PredictedSetting) -> str:
    setting, time = found.setting, found.time
    return (
        f"stage {setting.name} with {setting.micro_steps} micro-step{'s' * (setting.micro_steps > 1)} and "
        f"{setting.memory / 1e9:.1f} GB, {time.seconds:.3f} s a step, MFU {time.mfu:.2f}"
    )
