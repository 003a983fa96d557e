"""Cost of checkpoints at the size of BEiT-3 base: python -m tests.benchmarks.bench_checkpoint [--append] [--quick]

Two ranks of ZeRO-3 on a CPU train the recipe beit3_base, a few samples per step; DeepSpeed's own save of the same state
in the same run is the peer. `waited_seconds` is the time for which training stood still, `slowed_seconds` the
time by which steps took longer while files were written in the background.
"""

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro

from model.config import VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer
from pretrain.formats.vqkd import save_vqkd
from pretrain.run.run_log import read_log
from tests.benchmarks.results import append_results
from tests.support.launch import ROOT, run_ranks
from tests.support.tiny_run import write_tiny_data

NUM_RANKS = 2
STEPS_PER_CHECKPOINT = 500


@dataclass
class BenchOptions:
    append: bool = False
    """Write the figures into RESULTS.md."""
    quick: bool = False
    """Two layers instead of twelve."""
    num_checkpoints: int = 3
    """Number of checkpoints to save."""
    steps_between: int = 6
    """Steps between two checkpoints, enough for the files to be written."""


def main() -> None:
    options = tyro.cli(BenchOptions)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    if options.append:
        append_results("bench_checkpoint", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def measure(options: BenchOptions, folder: Path) -> dict[str, float]:
    data = write_tiny_data(folder)
    write_visual_tokenizer(folder / "codes.pt")
    run_dir = folder / "run"
    num_steps = options.num_checkpoints * options.steps_between
    settings = {
        "data.images": data.folder / "images",
        "data.pairs": data.folder / "pairs",
        "data.texts": data.folder / "texts",
        "data.text-tokenizer": data.folder / "text_tokenizer.spm",
        "data.text-length": 32,
        "data.num-lanes": 2,
        "data.num-workers": 0,
        "visual-tokenizer": folder / "codes.pt",
        "run-dir": run_dir,
        "images-per-step": 2,
        "pairs-per-step": 2,
        "texts-per-step": 2,
        "num-steps": num_steps + options.steps_between,  # no save slows the last ones down
        "save-every-steps": options.steps_between,
        "keep-checkpoints": 1,
        "precision": "float32",
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
    }
    if options.quick:
        settings["model.depth"] = 2
    arguments = ["beit3_base", *(word for name, value in settings.items() for word in (f"--{name}", value))]
    for _ in range(2):  # the second start only loads and verifies
        ended = run_ranks(
            NUM_RANKS,
            "tests.benchmarks.checkpoint_ranks",
            arguments,
            timeout_seconds=3600,
            environment={"TIMES_FOLDER": str(folder)},
            fresh=True,
        )
        if ended.exit_codes != [0] * NUM_RANKS:
            raise RuntimeError(ended.stderr[0])
    return figures_of(run_dir, folder, options.steps_between)


def figures_of(run_dir: Path, times: Path, steps_between: int) -> dict[str, float]:
    """Return the median over checkpoints of the slower rank's time."""
    per_rank: list[dict[str, list[float]]] = []
    for rank in range(NUM_RANKS):
        noted: dict[str, list[float]] = defaultdict(list)
        for line in (times / f"{rank}.jsonl").read_text().splitlines():
            note = json.loads(line)
            noted[note["what"]].append(note["seconds"])
        per_rank.append(noted)

    def slower(what: str) -> float:
        return median(max(values) for values in zip(*(noted[what] for noted in per_rank), strict=True))

    (newest,) = (run_dir / "checkpoints").glob("step_*")
    files = json.loads((newest / "manifest.json").read_text())["files"]
    gigabytes = sum(file["num_bytes"] for file in files.values()) / 1e9
    seconds = [record["seconds"] for record in read_log(run_dir)]
    # only the first steps after a checkpoint share the machine with the writers
    windows = [seconds[start : start + steps_between] for start in range(steps_between, len(seconds), steps_between)]
    quiet = median(median(window) for window in windows)
    slowed = max(0.0, median(sum(window) - len(window) * median(window) for window in windows))
    # a file of the model and one of the optimizer follow each other on each rank
    written = max(sum(noted["write"]) / len(noted["write"]) * 2 for noted in per_rank)
    for noted in per_rank:
        noted["finish"].pop()  # of the last checkpoint, which no step follows
    waited = slower("begin") + slower("finish")
    step = STEPS_PER_CHECKPOINT * quiet
    return {
        "gigabytes": gigabytes,
        "step_seconds": quiet,
        "waited_seconds": waited,
        "slowed_seconds": slowed,
        "share_at_500_steps": (waited + slowed) / step,
        "deepspeed_seconds": slower("deepspeed"),
        "deepspeed_share_at_500_steps": slower("deepspeed") / step,
        "waited_vs_deepspeed": waited / slower("deepspeed"),
        "write_seconds_per_gb": written / gigabytes,
        "verify_seconds_per_gb": max(noted["verify"][-1] for noted in per_rank) / gigabytes,
        "load_seconds_per_gb": slower("load") / gigabytes,
    }


def write_visual_tokenizer(path: Path) -> None:
    """Write an untrained visual tokenizer with the recipe's 8192 codes of 14 x 14 patches."""
    config = VisualTokenizerConfig(
        image_size=224, patch_size=16, dim=32, num_heads=2, encoder_depth=1, decoder_depth=1, num_codes=8192,
        code_dim=8, teacher_dim=192,
    )  # fmt: skip
    tokenizer = VisualTokenizer(config)
    tokenizer.codebook.start_randomly(8192, torch.Generator().manual_seed(0))
    save_vqkd(tokenizer, path)


if __name__ == "__main__":
    main()
