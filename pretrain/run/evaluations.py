"""When a run is evaluated, and where the figures go: RUN/evaluations.jsonl, the console, monitors, the checkpoint.

A run is evaluated every `every_steps` steps, before its first step and after its last. An evaluation that a stop leaves
out or interrupts is made when the run resumes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist

from pretrain.checkpoints.best import forget_later, update_best
from pretrain.checkpoints.manifest import has_manifest
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.run_config import RunConfig
from pretrain.engine.weight_average import averaged_weights
from pretrain.evaluation.chunks import Interrupted, NotFiniteError, ranks_of_the_run
from pretrain.evaluation.evaluation import Evaluation, Figures
from pretrain.evaluation.records import (
    Weights,
    append_evaluation,
    evaluation_line,
    in_words,
    restore_evaluations,
)
from pretrain.survival.agreement import FatalRunError, on_main_rank, summed_over_hosts
from pretrain.survival.console import say
from pretrain.survival.stop import StopRequest
from pretrain.survival.watchdog import Watchdog

WriteFigures = Callable[[int, Mapping[str, float]], None]
"""Writes figures of a step, on the main rank, and never raises."""
PREFIXES: dict[Weights, str] = {"raw": "evaluation/", "ema": "evaluation_ema/"}
"""Prefixes of the figures in monitors."""


class Evaluations:
    """The evaluations of a run. All ranks call every method in the same order."""

    def __init__(
        self,
        evaluation: Evaluation | None,
        config: RunConfig,
        first_step: int,
        stop: StopRequest,
        watchdog: Watchdog,
        write_figures: WriteFigures | None = None,
    ):
        """evaluation: None if the run has none. Raises RunError if the file of evaluations cannot be read."""
        self.evaluation, self.config, self.first_step = evaluation, config, first_step
        self.stop, self.watchdog, self.write_figures = stop, watchdog, write_figures
        self._lines: list[dict[str, Any]] = on_main_rank(self._restore) or []
        """On the main rank."""

    @property
    def settings(self) -> EvaluationConfig:
        return self.config.evaluation

    def begin(self, engine: deepspeed.DeepSpeedEngine) -> None:
        """Make the evaluation that is due at the first step, or was before it, and is missing. Raises RunError."""
        if self.evaluation is None:
            return
        last_due = last_due_step(self.first_step, self.config.num_steps, self.settings.every_steps)
        is_missing = [int(dist.get_rank() == 0 and not self._has(kind, last_due)) for kind in self._kinds]
        missing = [kind for kind, num in zip(self._kinds, summed_over_hosts(is_missing), strict=True) if num]
        if missing:
            self._evaluate(engine, self.first_step, missing)

    @property
    def _kinds(self) -> list[Weights]:
        """The kinds of weights that are evaluated."""
        return ["raw", "ema"] if self.config.optimizer.ema_decay else ["raw"]

    def _has(self, kind: Weights, step: int) -> bool:
        """Return whether there is an evaluation of these weights after `step` steps or more. On the main rank."""
        return any(line["step"] >= step and line["weights"] == kind for line in self._lines)

    def left_out(self, step: int) -> str:
        """Return a clause if the evaluation after the last step was left out for a stop. On the main rank."""
        is_made = not self.is_due(step) or all(self._has(kind, step) for kind in self._kinds)
        return "" if is_made else "; its last evaluation was left out: rerun the same command to make it"

    def is_due(self, step: int) -> bool:
        """Return whether the run is evaluated after `step` steps."""
        every = self.settings.every_steps
        return self.evaluation is not None and last_due_step(step, self.config.num_steps, every) == step

    def after_step(self, engine: deepspeed.DeepSpeedEngine, step: int) -> None:
        """Evaluate if that is due after `step` steps. Raises RunError."""
        if self.is_due(step):
            self._evaluate(engine, step, self._kinds)

    def of_step(self, step: int) -> list[dict[str, Any]]:
        """Return the lines of evaluations after `step` steps, for the checkpoint of that step. On the main rank."""
        return [line for line in self._lines if line["step"] == step]

    def _evaluate(self, engine: deepspeed.DeepSpeedEngine, step: int, kinds: Sequence[Weights]) -> None:
        self.watchdog.at("evaluating")
        is_complete = "raw" not in kinds or self._evaluate_weights(engine, step, "raw")
        if is_complete and "ema" in kinds:
            with averaged_weights(engine):
                self._evaluate_weights(engine, step, "ema")

    def _evaluate_weights(self, engine: deepspeed.DeepSpeedEngine, step: int, weights: Weights) -> bool:
        """Evaluate the weights that the engine has; return whether no request to stop interrupted it."""
        assert self.evaluation is not None
        started = time.perf_counter()
        try:
            figures = self.evaluation.figures(engine, ranks_of_the_run(self._is_asked_to_stop))
        except NotFiniteError as error:  # on all ranks alike
            raise FatalRunError(
                f"the evaluation after step {step} failed: {error}; to go on without figures, set "
                "--evaluation.every-steps 0"
            ) from error
        except Interrupted:  # on all ranks alike
            on_main_rank(say, f"the evaluation after step {step} is interrupted by a request to stop")
            return False
        if figures:
            on_main_rank(self._record, step, weights, figures, time.perf_counter() - started)
        return True

    def _is_asked_to_stop(self) -> bool:
        """Return whether this rank is asked to stop. Called before each chunk."""
        self.watchdog.at("evaluating")  # an evaluation longer than hang_seconds is not a hang
        return self.stop.signalled or (dist.get_rank() == 0 and self.stop.is_asked_by_file)

    def _restore(self) -> list[dict[str, Any]]:
        """Return the lines up to the first step; later ones are dropped from the file. Main rank. Raises OSError."""
        lines = restore_evaluations(self.config.run_dir, self.first_step)
        forget_later(self._checkpoints, self.first_step)
        # the best may have been after the first step, or by another figure, or the start was killed before it named it
        for line in lines:
            self._name_best(line)
        return lines

    def _record(self, step: int, weights: Weights, figures: Figures, seconds: float) -> None:
        """Main rank. Raises OSError."""
        line = evaluation_line(step, weights, figures, seconds)
        append_evaluation(self.config.run_dir, line)
        self._lines.append(line)
        of_average = " with averaged weights" * (weights == "ema")
        say(
            f"evaluated after step {step} of {self.config.num_steps}{of_average} ({seconds:.1f} s): {in_words(figures)}"
        )
        if self.write_figures is not None:
            self.write_figures(step, {PREFIXES[weights] + name: value for name, value in figures.items()})
        self._name_best(line)

    def _name_best(self, line: dict[str, Any]) -> None:
        """Name the checkpoint of an evaluation as the best if it is there and its figure is. Main rank.

        CheckpointSaver does so for those of this start, once they are complete.
        """
        checkpoint = self._checkpoints / f"step_{line['step']:08d}"
        if line["step"] <= self.first_step and has_manifest(checkpoint):
            update_best(checkpoint, [line], self.settings)

    @property
    def _checkpoints(self) -> Path:
        return self.config.run_dir / "checkpoints"


def last_due_step(step: int, num_steps: int, every_steps: int) -> int:
    """Return the last step, not after `step`, after which a run is evaluated. every_steps: at least 1."""
    return step if step == num_steps else step // every_steps * every_steps
