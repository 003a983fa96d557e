"""Run folders with the files that a report reads, without a training."""

import json
import math
from pathlib import Path
from typing import Any

LOSSES = ("mim", "mlm", "mvlm_image", "mvlm_text")


def log_record(step: int, num_steps: int, **changes: Any) -> dict[str, Any]:
    """Return a line of log.jsonl; losses fall from 6 to 2 with a wave of period 7."""
    losses = {name: 2 + 4 * math.exp(-4 * step / num_steps) + 0.1 * math.sin(step * 6.28 / 7) for name in LOSSES}
    record: dict[str, Any] = {
        "step": step,
        "loss": sum(losses.values()),
        "losses": losses,
        "grad_norm": 3 + math.sin(step),
        "grad_norms": {"vision": 1.5, "language": 2.0},
        "lr": 1e-3 * (1 - step / num_steps),
        "samples_seen": 28 * (step + 1),
        "skipped": False,
        "bad_samples": 0,
        "stop": False,
        "seconds": 0.5,
        "time": 1.7e9 + step,
        "tokens_per_second": 2000.0,
        "data_wait": 0.02,
    }
    if step + 1 == num_steps:
        record["passes"] = {"image": {"data/images": 1.4}, "pair": {"s3://bucket/pairs": 0.7}}
    return record | changes


def write_run(
    folder: Path,
    num_steps: int = 40,
    changed: dict[int, dict[str, Any]] | None = None,
    starts: tuple[int, ...] | None = (0, 20),
    evaluated_every: int | None = 10,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a run folder and return it.

    changed: other values for the log records of some steps; starts: steps done before each start, None for a run
    without environment.json; evaluated_every: None for a run without evaluations.jsonl.
    """
    folder.mkdir(parents=True)
    records = [log_record(step, num_steps, **(changed or {}).get(step, {})) for step in range(num_steps)]
    write_lines(folder / "log.jsonl", records)
    (folder / "config.json").write_text(json.dumps({"num_steps": num_steps, "seed": 0} | (config or {})))
    if starts is not None:
        ranks = [{"rank": rank, "host": "node1", "device": f"cuda:{rank}, NVIDIA H100"} for rank in range(2)]
        entries = [
            {"time": 1.7e9 + step, "first_step": step, "versions": {"torch": "2.13.0"}, "ranks": ranks}
            for step in starts
        ]
        (folder / "environment.json").write_text(json.dumps({"starts": entries}))
    if evaluated_every is not None:
        steps = range(0, num_steps + 1, evaluated_every)
        write_lines(folder / "evaluations.jsonl", [evaluation(step, weights) for step in steps for weights in WEIGHTS])
    return folder


WEIGHTS = ("raw", "ema")


def evaluation(step: int, weights: str) -> dict[str, Any]:
    """Return a line of evaluations.jsonl."""
    better = 0.1 if weights == "ema" else 0.0
    figures = {f"loss/{name}": 5 - better - step / 20 for name in LOSSES}
    figures |= {"words/acc_right_image": 0.01 * step + better, "words/acc_wrong_image": 0.005 * step}
    figures |= {"words/acc_commonest": 0.06, "knn/acc": 0.3}
    return {"step": step, "weights": weights, "figures": figures, "seconds": 1.0}


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
