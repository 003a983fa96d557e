"""From raw data to converted checkpoints with the project's own commands, in minutes: python -m pretrain.demo

Draws a small world, trains both tokenizers, pretrains a tiny BEiT-3 under the DeepSpeed launcher with ZeRO-3 on two
ranks, stops it halfway with a signal, resumes it, converts it, and evaluates whether it reads its images.
Everything lies in runs/demo, which is emptied first.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.settings.command_line import EXIT_INTERRUPTED, EXIT_USER_ERROR
from data_pipeline.settings.parsing import HELP
from pretrain.evaluation.options import MaskedWordsOptions
from pretrain.recipes.small import demo
from pretrain.survival.ports import free_port
from pretrain.survival.stop import EXIT_STOPPED

if TYPE_CHECKING:
    from pretrain.evaluation.masked_words import MaskedWordsResult

NUM_IMAGES, NUM_PAIRS, NUM_SENTENCES, NUM_HELD_OUT = 2000, 8000, 12000, 500
REQUIRED_MARGIN = 0.20
LOSS_STEPS = 10
"""Number of steps at either end whose mean loss is shown."""


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in HELP:
        print(__doc__)
        sys.exit()
    if sys.argv[1:]:
        print(f"error: pretrain.demo has no options, so {' '.join(sys.argv[1:])} says nothing to it", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    try:
        run_demo()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)  # the command that was running has printed it


def run_demo() -> None:
    # Imported here and below, so that --help does not wait for torch
    from pretrain.evaluation.masked_words import evaluate_masked_words

    start = time.perf_counter()
    config = demo()
    print(f"emptying {config.run_dir}", flush=True)
    data = config.data
    shutil.rmtree(config.run_dir, ignore_errors=True)
    assert data.text_tokenizer is not None and config.evaluation.pairs is not None
    held_out = Path(config.evaluation.pairs)

    section("a text tokenizer from the sentences of the world")
    run("data_pipeline.train_text_tokenizer", data.text_tokenizer, f"text=scenes:{NUM_SENTENCES // 4}",
        "--vocab-size", 140, "--model-type", "bpe")  # fmt: skip
    section("WebDataset shards of images, pairs and texts, and pairs and texts of held-out compositions")
    write_shards = "data_pipeline.write_shards"
    run(write_shards, "image", f"scenes:{NUM_IMAGES}", *data.images)
    run(write_shards, "pair", f"scenes:{NUM_PAIRS}", *data.pairs)
    encoded = ("--text-tokenizer", data.text_tokenizer, "--text-length", data.text_length)
    run(write_shards, "text", f"scenes:{NUM_SENTENCES}", *data.texts, *encoded)
    run(write_shards, "pair", f"scenes:{NUM_HELD_OUT}", held_out, "--split", "held_out")
    run(write_shards, "text", f"scenes:{NUM_HELD_OUT}", config.evaluation.texts, "--split", "held_out", *encoded)
    section("a visual tokenizer (VQ-KD on the pixels of a patch)")
    run("pretrain.train_visual_tokenizer", "demo")

    section(f"pretraining with ZeRO-3, stopped by SIGUSR1 soon after step {config.num_steps // 2}")
    pretrain(config.run_dir, stop_after=config.num_steps // 2)
    section("the same command again: it resumes")
    pretrain(config.run_dir)
    section("conversion to Microsoft's format")
    export = config.run_dir / "export"
    run("pretrain.convert", config.run_dir, export, "--role", "fusion")
    run("pretrain.convert", config.run_dir, export, "--role", "dual")
    section("guessing masked words of held-out captions")
    print(f"$ python -m pretrain.masked_words {config.run_dir} {held_out}", flush=True)
    result = evaluate_masked_words(MaskedWordsOptions(config.run_dir, held_out))
    report(config.run_dir, result, time.perf_counter() - start)
    if result.right_image.accuracy - result.wrong_image.accuracy < REQUIRED_MARGIN:
        sys.exit(f"error: the right image wins by less than {REQUIRED_MARGIN:.0%}; it should on any machine")


def section(title: str) -> None:
    print(f"\n== {title}", flush=True)


def run(module: str, *arguments: object) -> None:
    """Run one command of the project, shown as a user would type it. Ends the demo if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"$ python -m {module} {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
    if code:
        sys.exit(f"error: {module} ended with {code}; see above")


def pretrain(run_dir: Path, stop_after: int | None = None) -> None:
    """Pretrain under the DeepSpeed launcher, to the end or until SIGUSR1 after a step."""
    import torch

    from pretrain.run.run_log import LOG_NAME, read_log

    num_gpus = torch.cuda.device_count()
    num_ranks = next((n for n in (4, 2, 1) if n <= num_gpus), 2)
    overrides = ["--deepspeed-config", "ds_configs/zero3.json"] if num_gpus else []
    arguments = ["--log_level", "critical", "--num_accelerators", str(num_ranks), "--master_port", str(free_port())]
    arguments += ["--module", "pretrain.train", "demo", *overrides]
    print(f"$ deepspeed {' '.join(arguments)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "deepspeed.launcher.runner", *arguments])
    while stop_after is not None and process.poll() is None:
        time.sleep(0.2)
        if (run_dir / LOG_NAME).exists() and len(read_log(run_dir)) >= stop_after:
            for rank in ranks_of(process.pid):
                os.kill(rank, signal.SIGUSR1)
            break
    expected = 0 if stop_after is None else EXIT_STOPPED
    if process.wait() != expected:
        sys.exit(f"error: pretraining ended with {process.returncode}, not {expected}; see above")


def ranks_of(launcher: int) -> list[int]:
    """Return the process ids of the ranks under a launcher."""
    import psutil

    children = psutil.Process(launcher).children(recursive=True)
    return [child.pid for child in children if "--local_rank" in " ".join(child.cmdline())]


def report(run_dir: Path, result: "MaskedWordsResult", seconds: float) -> None:
    from pretrain.run.run_log import read_log

    losses = [record["loss"] for record in read_log(run_dir)]
    loss_start = sum(losses[:LOSS_STEPS]) / LOSS_STEPS
    loss_end = sum(losses[-LOSS_STEPS:]) / LOSS_STEPS
    rows = [
        (f"loss, mean of the first {LOSS_STEPS} steps", f"{loss_start:.2f}"),
        (f"loss, mean of the last {LOSS_STEPS} steps", f"{loss_end:.2f}"),
        ("masked words guessed with the right image", f"{result.right_image.accuracy:.1%}"),
        ("... with the right image, masked as in training", f"{result.right_masked.accuracy:.1%}"),
        ("masked words guessed with a wrong image", f"{result.wrong_image.accuracy:.1%}"),
        ("masked words guessed by the commonest word", f"{result.commonest:.1%}"),
    ]
    print(f"\n{result.num_words} content words of captions whose compositions never occurred in training:\n")
    for name, value in rows:
        print(f"  {name:48} {value:>7}")
    exported = ", ".join(f"export/{path.name}" for path in sorted((run_dir / "export").glob("*.pth")))
    print(f"\n{run_dir} holds log.jsonl, checkpoints/, {exported}")
    print(
        f"\nloss_start={loss_start:.3f} loss_end={loss_end:.3f} acc_right_image={result.right_image.accuracy:.3f} "
        f"acc_wrong_image={result.wrong_image.accuracy:.3f} acc_commonest={result.commonest:.3f} "
        f"acc_right_masked={result.right_masked.accuracy:.3f} seconds={seconds:.0f}"
    )


if __name__ == "__main__":
    main()
