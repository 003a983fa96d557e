"""What a GPU has to show, in parts that survive each other's failure: tests/benchmarks/gpu.sh [PART ...] [--dry]

    tests/benchmarks/gpu.sh              lists the parts
    tests/benchmarks/gpu.sh first        the first ten minutes on a new kind of machine
    tests/benchmarks/gpu.sh step bits    these parts

A part is one or several commands, each with a limit in seconds after which it is ended. Their lines are printed as they
come and appended to a file at once, so that whatever ends the machine leaves what was measured before. --dry runs the
same commands in tiny sizes on a CPU: it measures nothing, and shows whether everything runs.

Imports nothing but the standard library: a package that is missing costs the parts that need it.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
DEFAULT_OUT, DEFAULT_DRY_OUT = Path("runs/gpu.txt"), Path("runs/gpu_dry.txt")
KERNEL_TESTS = (
    "tests/model/kernels/test_backend.py", "tests/model/kernels/test_block_masks.py",
    "tests/model/kernels/test_compiled.py", "tests/model/kernels/test_expert_activation.py",
    "tests/model/kernels/test_expert_ffn.py", "tests/model/kernels/test_expert_linear.py",
    "tests/model/kernels/test_expert_norm.py", "tests/model/kernels/test_language.py",
    "tests/model/kernels/test_masked_cross_entropy.py", "tests/model/kernels/test_nvidia_apex.py",
    "tests/model/kernels/test_random_choice.py", "tests/model/kernels/test_residual_norm.py",
    "tests/model/kernels/test_row_programs.py", "tests/model/kernels/test_row_tiles.py",
    "tests/model/kernels/test_text_masks.py", "tests/model/kernels/test_token_assembly.py",
)  # fmt: skip
"""Tests of the kernels, all of which a GPU runs compiled and a CPU in Triton's interpreter."""
FEW_KERNEL_TESTS = ("tests/model/kernels/test_expert_norm.py", "tests/model/kernels/test_row_tiles.py")
"""Those of them that a dry run takes."""
GPU_TESTS = (
    "tests/model/test_attention.py", "tests/model/test_flash_attention.py", "tests/model/test_kernels.py",
    "tests/model/test_visual_tokenizer.py", "tests/pretrain/engine/test_determinism.py",
    "tests/pretrain/planning/test_contrast_kind.py", "tests/pretrain/planning/test_memory.py",
    "tests/pretrain/run/test_device_copies.py",
)  # fmt: skip
"""Files with tests that need a GPU, but for those of whole runs."""
RUN_TESTS = ("tests/runs/test_kernels.py",)
"""Files with tests that start whole runs on a GPU."""


@dataclass(frozen=True)
class Command:
    """A module to run."""

    words: tuple[str, ...]
    """Module and arguments."""
    seconds: int
    """Limit on a GPU."""
    dry: tuple[str, ...] | None = None
    """Module and arguments in a dry run; None: the same words and --dry."""


@dataclass(frozen=True)
class Part:
    """Commands that answer one question."""

    question: str
    commands: tuple[Command, ...]

    @property
    def seconds(self) -> int:
        return sum(command.seconds for command in self.commands)


def tests(seconds: int, *words: str, dry: tuple[str, ...]) -> Command:
    """Return a command that runs test files; one that cannot be imported does not stop the others."""
    workers = ("-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))) if importlib.util.find_spec("xdist") else ()
    pytest = ("pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider")
    return Command((*pytest, *workers, *words), seconds, (*pytest, *dry))


BENCHMARKS = "tests.benchmarks"
MACHINE = Part("Which versions, which GPU, and what is missing?", (Command((f"{BENCHMARKS}.machine",), 30),))
PARTS = {
    "kernels": Part(
        "Do the fused kernels compute their definitions?",
        (tests(115, *KERNEL_TESTS, dry=FEW_KERNEL_TESTS),),
    ),
    "probe": Part(
        "Which assumptions of the roofline are wrong?", (Command((f"{BENCHMARKS}.probe",), 110),),
    ),
    "step": Part(
        "Where does the time of a step of the giant go?", (Command((f"{BENCHMARKS}.profile_step",), 115),),
    ),
    "bits": Part(
        "Do gradients repeat to the bit, and what does the setting deterministic cost?",
        (Command((f"{BENCHMARKS}.bits",), 45), Command((f"{BENCHMARKS}.bits", "--deterministic"), 45)),
    ),
    "tests": Part(
        "Do the tests pass that need a GPU: exactness, memory as planned, no waiting for the device?",
        (tests(115, "-m", "gpu", *GPU_TESTS, dry=("-m", "gpu", *GPU_TESTS)),),
    ),
    "operations": Part(
        "How fast are the fused kernels beside eager torch, torch.compile, apex and Liger, at the size of base?",
        (Command((f"{BENCHMARKS}.bench_kernels", "--quick"), 120),),
    ),
    "memory": Part(
        "Is memory what was planned, for every kind of checkpointing?",
        (Command((f"{BENCHMARKS}.bench_memory", "--quick"), 115, (f"{BENCHMARKS}.bench_memory", "--quick")),),
    ),
    "compare": Part(
        "How fast is a step of base and of the giant beside torchscale's?",
        tuple(
            Command(
                (f"{BENCHMARKS}.bench_step", "--sizes", size, "--rounds", "5", "--no-compile-peer"), 240,
                (f"{BENCHMARKS}.bench_step", "--dry", "--rounds", "1"),
            )
            for size in ("base", "giant_decoupled")
        ),
    ),
    "giant": Part(
        "How fast are the fused kernels at the size of the giant?",
        (Command((f"{BENCHMARKS}.bench_kernels",), 420),),
    ),
    "runs": Part(
        "Do 200 steps with the kernels end as without them?",
        (tests(600, "-m", "gpu", *RUN_TESTS, dry=("-m", "gpu", *RUN_TESTS)),),
    ),
}  # fmt: skip
"""Parts by name, in the order in which they run."""
FIRST = ("kernels", "probe", "step", "bits", "tests")
"""Parts of the first ten minutes; those with the least that can go wrong come first."""
DRY_SECONDS = 300
"""Limit of a command in a dry run, which may share two slow cores."""


class Results:
    """The terminal and a file, which both get each line at once."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", buffering=1)

    def line(self, text: str) -> None:
        print(text, flush=True)
        self.file.write(f"{text}\n")
        self.file.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"first, {', '.join(PARTS)}")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU: does everything run?")
    parser.add_argument(
        "--out", type=Path, help=f"file that lines are appended to (default: {DEFAULT_OUT}; {DEFAULT_DRY_OUT} if dry)"
    )
    args = parser.parse_args(arguments)
    if not args.parts:
        print(listing())
        return 0
    if unknown := set(args.parts) - {"first", *PARTS}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from first, {', '.join(PARTS)}")
    names = list(dict.fromkeys(name for part in args.parts for name in (FIRST if part == "first" else (part,))))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises, so that the command under way is ended too
    out = args.out or (DEFAULT_DRY_OUT if args.dry else DEFAULT_OUT)
    print(f"lines are appended to {out}", flush=True)
    results = Results(out)
    results.line(f"# {time.strftime('%Y-%m-%d %H:%M:%S')}, gpu.sh {' '.join(args.parts)}{' --dry' * args.dry}")
    if not run_part("machine", MACHINE, args.dry, results):
        return 2
    failed = [name for name in names if not run_part(name, PARTS[name], args.dry, results)]
    results.line(
        f"# {len(names) - len(failed)} of {len(names)} parts passed" + f"; failed: {', '.join(failed)}" * bool(failed)
    )
    return 1 if failed else 0


def listing() -> str:
    """Return a line per part with its limit in seconds and its question."""
    first = Part("The first ten minutes: " + ", ".join(FIRST), tuple(c for n in FIRST for c in PARTS[n].commands))
    lines = [f"{name:<12}{part.seconds:>6} s  {part.question}" for name, part in {"first": first, **PARTS}.items()]
    return "\n".join(["usage: tests/benchmarks/gpu.sh PART ... [--dry] [--out FILE]", "", *lines])


def run_part(name: str, part: Part, is_dry: bool, results: Results) -> bool:
    """Run the commands of a part one after the other, all of them whatever fails; return whether all passed."""
    results.line(f"\n## {name}: {part.question}")
    if any(command.words[0] == "pytest" for command in part.commands) and importlib.util.find_spec("pytest") is None:
        results.line(f"== {name}: not started, since its tests need pytest, which is not installed: pip install pytest")
        return False
    codes = []
    for command in part.commands:
        words = command.words if not is_dry else command.dry or (*command.words, "--dry")
        began = time.monotonic()
        limit = DRY_SECONDS if is_dry else command.seconds
        code = run(words, limit, environment(is_dry), results)
        ending = f"no end within {limit} s" if code is None else f"exit status {code}"
        results.line(f"== {name}: {ending}, {time.monotonic() - began:.0f} s: python -m {' '.join(words)}")
        codes.append(code)
    return codes == [0] * len(codes)


def environment(is_dry: bool) -> dict[str, str]:
    """Return the environment of a command: one process on this machine, which may have no network."""
    alone = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    dry = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if is_dry else {}
    return {**alone, **os.environ, **dry, "PYTHONUNBUFFERED": "1"}


def run(words: tuple[str, ...], limit: float, environment: dict[str, str], results: Results) -> int | None:
    """Run a module; return its exit code, None if it had to be ended. Its lines go to the results as they come."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    copying = threading.Thread(target=_copy, args=(process.stdout, results), daemon=True)
    copying.start()
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):  # its workers too, which would hold the GPU
            _end(process, number)
        copying.join(5)  # a process that left the group may hold the other end of the pipe


def _copy(lines: IO[str], results: Results) -> None:
    for line in lines:
        results.line(line.rstrip("\n"))


def _end(process: "subprocess.Popen[str]", number: int) -> None:
    """Send a signal to the process and its children, and give them a moment."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        return


if __name__ == "__main__":
    sys.exit(main())
