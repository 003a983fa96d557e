"""A whole step of pretraining compared with torchscale's: python -m tests.benchmarks.bench_step [--quick] [--append]

Ours packs images, pairs and texts into one pass; torchscale's BEiT3, as it is commonly used, takes three. Both compute
the same function of the same weights and samples, which is checked, under the same DeepSpeed ZeRO-3 engine of one rank.
Forward, backward and optimizer are timed; reading, masks and visual tokenizer are left out. A competitor that does not
fit into memory with the whole batch takes it in halves, quarters, ... (`parts`), and does the same work.
torchscale_compile compiles each layer by itself, the largest graph that ZeRO-3's hooks do not break.

Peak memory is the competitor's own: weights, optimizer state and the peak of a step. `vs_` are ratios of speeds.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

import torch
import tyro

from model.kernels.backend import Backend
from pretrain.engine.engine import init_distributed
from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.memory import rank_memory
from pretrain.run.speed import peak_flops
from pretrain.survival.out_of_memory import is_out_of_memory
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.benchmarks.step_cases import Batch, Case, dry_case, make_case, random_batch
from tests.benchmarks.step_engines import PADDED, PEER_PACKAGES, PEERS, Competitor, Variant, build, free_memory
from tests.benchmarks.timing import reason

OURS: dict[str, tuple[Variant, ...]] = {
    "cpu": ("reference", "compile"),
    "cuda": ("reference", "compile", "triton"),
}
"""Variants by device, in the order of measurement; figures that name no kernels are those of the last one."""
TOLERANCE = 1e-3
"""Tolerance in nats of mean losses of the first step in float32."""
WARMUP_STEPS = 2
"""Warmup steps: the first allocates optimizer state, ZeRO-3 knows the order of modules from the second."""


@dataclass(frozen=True)
class BenchOptions:
    """A step of ours compared with torchscale's."""

    sizes: tuple[str, ...] = ()
    """Names of cases, see `cases`; default: all of this device."""
    samples: int | None = None
    """Number of images, of pairs and of texts per step; None: as in `cases`."""
    rounds: int | None = None
    """Timed steps per competitor; None: 5 on a CPU, 8 on a GPU."""
    threads: int = 2
    """CPU threads."""
    compile_peer: bool = True
    """Also measure torchscale under torch.compile, in cases of base."""
    seconds: float = float("inf")
    """Time in seconds after which no further case is started."""
    padded: bool = False
    """Also measure ours with rows for padding, to show what packing saves."""
    quick: bool = False
    """Run for less than a minute: one small case, two rounds, nothing compiled."""
    dry: bool = False
    """Compare steps of a tiny network, to see whether everything runs; nothing is compiled."""
    append: bool = False
    """Write the figures into RESULTS.md."""


@dataclass
class Measured:
    """Measurements of one competitor in one case."""

    num_parts: int
    losses: list[float]
    """Mean losses of the first step."""
    peak_bytes: int = 0
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    options = tyro.cli(BenchOptions, description=__doc__)
    require_packages(PEER_PACKAGES)
    began = time.monotonic()
    device = start(options.threads)
    figures: dict[str, float] = {}
    for case in cases(options, device):
        if time.monotonic() - began > options.seconds:
            print(f"{case.name} is left out: {options.seconds:.0f} seconds are over", flush=True)
            continue
        variants = [*OURS[device.type], *(PEERS if case.has_peer else ())]
        if options.dry:
            variants = [variant for variant in variants if variant not in ("compile", "torchscale_compile")]
        if options.quick or not options.compile_peer or not case.name.startswith("base"):
            variants = [variant for variant in variants if variant != "torchscale_compile"]
        if options.padded:
            variants.append(PADDED)
        rounds = options.rounds or (2 if options.quick else {"cpu": 5, "cuda": 8}[device.type])
        measured = measure(case, variants, rounds, device)
        rows = figures_of(case, measured, device)
        print_table(case, rows, measured)
        figures |= rows | differences(case, measured)
    if options.append:
        append_results("bench_step", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def start(num_threads: int) -> torch.device:
    """Start a process group of one rank, without DeepSpeed's log."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    for message in ("Importing from timm", "Full backward hook", "dynamo_pgo"):
        warnings.filterwarnings("ignore", message=message)
    device = init_distributed(hang_seconds=600)
    if device.type == "cpu":
        torch.set_num_threads(num_threads)
    return device


def cases(options: BenchOptions, device: torch.device) -> Iterator[Case]:
    """Yield cases that fit into 139 GiB; on a CPU few samples, but enough to outweigh optimizer and embeddings."""
    if options.dry:
        yield dry_case(device.type == "cuda")
        return
    samples = options.samples
    if device.type == "cpu":
        if options.quick:
            found = [make_case("base_1_layer", samples or 2, recipe="beit3_base", depth=1, vocab_size=8000)]
        else:
            found = [make_case("base_4_layers", samples or 8, recipe="beit3_base", depth=4)]
    else:
        found = [
            make_case("base", samples or 64, recipe="beit3_base", on_gpu=True),
            make_case("giant_decoupled", samples or 32, recipe="beit3_giant", is_resident=False, on_gpu=True),
            make_case("giant", samples or 32, recipe="beit3_giant", is_decoupled=False, is_resident=False, on_gpu=True),
            make_case("large", samples or 32, recipe="beit3_large", on_gpu=True),
        ][: 1 if options.quick else None]
    names = [case.name for case in found]
    unknown = set(options.sizes) - set(names)
    if unknown:
        raise SystemExit(f"error: there is no case {', '.join(sorted(unknown))} here; choose from {', '.join(names)}")
    yield from (case for case in found if not options.sizes or case.name in options.sizes)


def measure(case: Case, variants: list[Variant], rounds: int, device: torch.device) -> dict[Variant, Measured]:
    """Measure all in turns if they fit into memory together, else one after the other."""
    batch = random_batch(case.config, device)
    measured: dict[Variant, Measured] = {}
    groups = [variants] if case.is_resident else [[variant] for variant in variants]
    for group in groups:
        competitors: dict[Variant, Competitor] = {}
        for variant in group:
            if variant != "torchscale_compile":
                competitors[variant], measured[variant] = warmed_up(variant, case, batch)
                continue
            try:
                competitors[variant], measured[variant] = warmed_up(variant, case, batch)
            except Exception as error:  # DeepSpeed and the compiler may fail together in any way
                print(f"{variant} is left out: {reason(error)}", flush=True)
        for _ in range(rounds):
            for variant, competitor in competitors.items():
                measured[variant].seconds.append(step_seconds(competitor, device))
        for competitor in competitors.values():
            competitor.end()
    return measured


def warmed_up(variant: Variant, case: Case, batch: Batch) -> tuple[Competitor, Measured]:
    """Build and warm up a competitor, with the batch in as few parts as are planned to fit into memory, or more."""
    num_parts = first_num_parts(variant, case, batch.inputs.images.device)
    while True:
        free_memory()
        before, competitor = allocated_bytes(), None
        try:
            competitor = build(variant, case, batch, num_parts)
            measured = Measured(num_parts, competitor.step().tolist())
            for _ in range(WARMUP_STEPS - 1):
                competitor.step()
            measured.peak_bytes = allocated_bytes() - before + extra_bytes(competitor)
            print_warmed_up(case, variant, measured)
            return competitor, measured
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"{case.name} {variant}: {num_parts} parts do not fit: {reason(error)}", flush=True)
        if competitor is not None:  # outside of the handler, whose exception holds the step's tensors
            competitor.end()
        num_parts *= 2
        if num_parts > case.size.num_images:
            raise RuntimeError(f"{variant} does not fit into memory with one sample of each kind; take a smaller case")


def print_warmed_up(case: Case, variant: Variant, measured: Measured) -> None:
    """Print what is known of a competitor before it is timed."""
    losses = ", ".join(f"{loss:.4f}" for loss in measured.losses)
    parts = f"{measured.num_parts} part{'s' * (measured.num_parts > 1)}"
    print(f"{case.name} {variant}: {parts}, {measured.peak_bytes / 1e9:.1f} GB, losses {losses}", flush=True)


def first_num_parts(variant: Variant, case: Case, device: torch.device) -> int:
    """Return the number of parts to try first. A peer's largest pass holds half of the tokens."""
    if device.type != "cuda":
        return 1
    free_bytes, _ = torch.cuda.mem_get_info(device)
    num_parts = planned_num_parts(case, "triton" if variant == "triton" else "reference", free_bytes)
    return max(1, num_parts // 2) if variant in PEERS else num_parts


def planned_num_parts(case: Case, kernels: Backend, free_bytes: int) -> int:
    """Return the fewest parts, a power of two, that are planned to fit; one sample of a kind each if none does."""
    memory_config = read_memory_config(case.config.deepspeed_config)
    num_parts = 1
    while 2 * num_parts <= case.size.num_images:
        planned = rank_memory(
            replace(case.config, gradient_accumulation_steps=num_parts), memory_config, 1, kernels, "cuda"
        )
        if planned.total - planned.tokenizer <= free_bytes:  # the codes of a benchmark are made beforehand
            break
        num_parts *= 2
    return num_parts


def extra_bytes(competitor: Competitor) -> int:
    """Return the peak memory of a step beyond what stays allocated."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = allocated_bytes()
    competitor.step()
    return torch.cuda.max_memory_allocated() - before


def allocated_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def step_seconds(competitor: Competitor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    competitor.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def differences(case: Case, measured: dict[Variant, Measured]) -> dict[str, float]:
    """Return the largest difference in nats of each competitor's losses from the first one's.

    In float32 a difference above the tolerance is a mistake and raises AssertionError. bfloat16 rounds differently in
    different kernels, by how much is a finding: it is printed, and the measurements stay.
    """
    (first, expected), *others = measured.items()
    found: dict[str, float] = {}
    for variant, other in others:
        if variant == PADDED:  # its words attend to padding
            continue
        largest = (torch.tensor(other.losses) - torch.tensor(expected.losses)).abs().max().item()  # NaN if one is
        found[f"{case.name}_{variant}_loss_difference"] = largest
        sentence = f"losses of {variant} {other.losses} and {first} {expected.losses} differ by {largest:.2g} nats"
        assert case.config.precision == "bfloat16" or largest < TOLERANCE, sentence
        if not largest < TOLERANCE:
            print(f"note: {sentence}", flush=True)
    return found


def figures_of(case: Case, measured: dict[Variant, Measured], device: torch.device) -> dict[str, float]:
    peak = peak_flops(device)
    figures: dict[str, float] = {}
    for variant, found in measured.items():
        name, seconds = f"{case.name}_{variant}", median(found.seconds)
        figures[f"{name}_step_seconds"] = seconds
        figures[f"{name}_tokens_per_second"] = case.num_tokens / seconds
        if peak is not None:
            figures[f"{name}_mfu"] = case.flops / seconds / peak
        if device.type == "cuda":
            figures[f"{name}_peak_gb"] = found.peak_bytes / 1e9
            figures[f"{name}_parts"] = found.num_parts
    for ours in measured.keys() - {*PEERS, PADDED}:
        for other in measured:
            if other in (*PEERS, PADDED) or (other == "reference" and ours != "reference"):
                ratios = [b / a for a, b in zip(measured[ours].seconds, measured[other].seconds, strict=True)]
                figures[f"{case.name}_{ours}_vs_{other}"] = median(ratios)
    return figures


def print_table(case: Case, figures: dict[str, float], measured: dict[Variant, Measured]) -> None:
    """Print a row per competitor; `vs` is its speed relative to torchscale, or to the first."""
    print(f"\n{case.name}: {case.num_tokens} tokens and {case.flops / 1e12:.3g} TFLOP per step", flush=True)
    print(f"{'':<20}{'step s':>9}{'tokens/s':>11}{'MFU':>8}{'peak GB':>9}{'parts':>7}{'speed':>8}")
    base = measured["torchscale"] if "torchscale" in measured else next(iter(measured.values()))
    for variant, found in measured.items():
        values = {key: figures.get(f"{case.name}_{variant}_{key}") for key in ("mfu", "peak_gb")}
        mfu = "-" if values["mfu"] is None else f"{values['mfu']:.3f}"
        peak = "-" if values["peak_gb"] is None else f"{values['peak_gb']:.1f}"
        speed = median(b / a for a, b in zip(found.seconds, base.seconds, strict=True))
        seconds = median(found.seconds)
        print(
            f"{variant:<20}{seconds:>9.3f}{case.num_tokens / seconds:>11.0f}{mfu:>8}{peak:>9}{found.num_parts:>7}"
            f"{speed:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
