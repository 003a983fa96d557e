"""The error budget: samples that had to be skipped are listed in RUN/bad_samples.jsonl, and too many end the run."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_pipeline.samples.sample import BadSample, printable
from pretrain.survival.agreement import FatalRunError
from pretrain.survival.console import warn
from pretrain.survival.json_lines import append_whole, read_records, restore_lines

BAD_SAMPLES_NAME = "bad_samples.jsonl"
NUM_SHOWN = 5


def read_bad_samples(run_dir: Path) -> list[dict[str, Any]]:
    """Return the sound lines of a run's list of bad samples. Raises OSError."""
    return read_records(run_dir / BAD_SAMPLES_NAME, _is_bad_sample)


class BadSampleBudget:
    """The distinct samples that any rank had to skip over the whole run, restarts included."""

    def __init__(self, run_dir: Path, max_bad_samples: int):
        self.path = run_dir / BAD_SAMPLES_NAME
        self.max_bad_samples = max_bad_samples
        self.samples: dict[tuple[str, str], dict[str, Any]] = {}
        """Lines of the file by shard and key: the step that met a sample first, and why it was skipped."""

    def read(self, first_step: int) -> None:
        """Read the samples met before a step, from which the run resumes. Raises OSError."""
        for line in read_bad_samples(self.path.parent):
            if line["step"] < first_step:
                self.samples.setdefault(_shard_and_key(line), line)

    def write(self, first_step: int) -> None:
        """Reduce the file to the lines that `read` takes. Main rank. Raises OSError."""
        restore_lines(self.path, _is_bad_sample, _shard_and_key, first_step)

    def add(self, step: int, found: list[BadSample]) -> None:
        """Add the samples that this rank skipped in a step. All ranks call it if one has skipped some.

        Raises FatalRunError with a report, on all of them, once the budget is spent.
        """
        per_rank: list[list[BadSample]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(per_rank, found)
        lines = []
        for sample in (sample for samples in per_rank for sample in samples):
            if (sample.shard, sample.key) not in self.samples:
                lines.append({"step": step, **vars(sample)})
                self.samples[sample.shard, sample.key] = lines[-1]
        if dist.get_rank() == 0 and lines:
            for line in lines:
                warn(f"skipped {BadSample(line['shard'], line['key'], line['reason'])}")
            try:
                with self.path.open("ab", buffering=0) as file:
                    append_whole(file, "".join(json.dumps(line) + "\n" for line in lines).encode())
            except OSError as error:  # the sample is counted and on standard error; that must not end one rank alone
                warn(f"{self.path} cannot be written ({error})")
        if len(self.samples) > self.max_bad_samples:
            raise FatalRunError(self.report())

    def report(self) -> str:
        """Return the number of bad samples, the most frequent reasons, and the shards with most of them."""
        reasons = Counter(line["reason"].partition(" (")[0] for line in self.samples.values()).most_common(NUM_SHOWN)
        shards = Counter(line["shard"] for line in self.samples.values()).most_common(NUM_SHOWN)
        return (
            f"{len(self.samples)} bad samples exceed data.max_bad_samples {self.max_bad_samples}: "
            f"{', '.join(f'{count} x {printable(reason)}' for reason, count in reasons)}; "
            f"most in {', '.join(f'{printable(shard)} ({count})' for shard, count in shards)}; all are in {self.path}"
        )


def _is_bad_sample(line: dict[str, Any]) -> bool:
    is_text = all(isinstance(line.get(name), str) for name in ("shard", "key", "reason"))
    return is_text and type(line.get("step")) is int and line["step"] >= 0


def _shard_and_key(line: dict[str, Any]) -> tuple[str, str]:
    return line["shard"], line["key"]
