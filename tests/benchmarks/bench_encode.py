"""python -m tests.benchmarks.bench_encode [--quick]: pretrain.encode against the bare forward of its network.

The bare forward, on one batch that is in memory already, is the limit: what `encode` adds is reading, decoding,
scaling, normalizing and writing. Both take turns for several rounds on the same machine, with one thread for the
network and one worker process. The pictures are those of ../shared/data/emoji_artists, or of --source, whose artists
are read as one folder.

`vs_bare` is by the clock and needs a machine with two idle cores: one for the network, one for the worker.
`vs_bare_cpu` is by the CPU time of the process that holds the network, which other programs distort less. `inline` is
what would remain by the clock if that process decoded as well.
"""

import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import tyro

from model.config import MultiwayConfig
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from pretrain.conversion.opened import Opened
from pretrain.formats.preprocessing import Preprocessing, default_preprocessing
from pretrain.inference.encoding import write_features
from pretrain.inference.features import FeatureChoice, features, inputs_of
from pretrain.inference.options import EncodeOptions
from pretrain.inference.pretrained_model import PretrainedModel
from pretrain.recipes.beit3 import beit3_base
from pretrain.recipes.small import laptop
from tests.benchmarks.results import append_results

SOURCE = Path(__file__).parents[3] / "shared" / "data" / "emoji_artists"
CHOICE = FeatureChoice("class")


@dataclass(frozen=True)
class BenchOptions:
    """Images per second of pretrain.encode and of the bare forward."""

    source: Path = SOURCE
    """Folder of pictures at any depth."""
    num_images: int = 2000
    """Number of pictures for the network of the recipe laptop."""
    num_base_images: int = 32
    """Number for that of beit3_base, whose forward takes about a second per picture on one core; 0: none."""
    batch_size: int = 64
    rounds: int = 3
    quick: bool = False
    """Run for less than a minute, less precisely."""
    append: bool = False
    """Append the figures to tests/benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Rate:
    """Images per second of the clock, and of CPU time of this process."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.4g} images/s ({self.cpu:.4g} per CPU second)"


def main() -> None:
    options = tyro.cli(BenchOptions, prog="python -m tests.benchmarks.bench_encode")
    torch.set_num_threads(1)
    pictures = sorted(options.source.glob("*/*.webp"))
    if not pictures:
        sys.exit(f"error: {options.source} has no folders of .webp files; give --source")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = {"laptop": (laptop().model, 256 if options.quick else options.num_images)}
        if options.num_base_images and not options.quick:
            cases["base"] = (beit3_base().model, options.num_base_images)
        for name, (config, num_images) in cases.items():
            chosen = pictures[:: max(1, len(pictures) // num_images)][:num_images]
            found = measure(config, chosen, Path(folder), min(options.batch_size, num_images // 2), options.rounds)
            print(f"{name}: {len(chosen)} pictures, " + " ".join(f"{key}={value:.4g}" for key, value in found.items()))
            figures |= {f"{name}_{key}": value for key, value in found.items()}
    if options.append:
        append_results(Path(__file__).stem, figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def measure(
    config: MultiwayConfig, pictures: list[Path], folder: Path, batch_size: int, rounds: int
) -> dict[str, float]:
    """Return the figures of one network, medians over the rounds."""
    network = MaskedDataModel(config)
    init_weights(network, config, seed=0)
    model = PretrainedModel(Opened(network, None, default_preprocessing(config), "random weights"), "cpu")
    listed = folder / "pictures.txt"
    listed.write_text("".join(f"{picture}\n" for picture in pictures))
    options = EncodeOptions(
        source=folder,
        images=str(listed),
        out=folder / "features.npy",
        device="cpu",
        batch_size=batch_size,
        num_workers=1,
    )
    pixels = torch.rand(batch_size, 3, config.image_size, config.image_size)
    inputs = inputs_of("image", model.network, model.inputs(pixels), None)
    num_batches = -(-len(pictures) // batch_size)

    def bare() -> int:
        for _ in range(num_batches):
            features(model.network, inputs, "image", CHOICE)
        return num_batches * batch_size

    def encode() -> int:
        encoded = write_features(options, model, CHOICE)
        assert not encoded.report.skipped, encoded.report.lines()
        return encoded.report.num_kept

    bare()
    rates = []
    for number in range(rounds):
        rates.append((rate_of(bare), rate_of(encode)))
        print(f"round {number}: bare {rates[-1][0]}, encode {rates[-1][1]}", flush=True)
    decoded = rate_of(lambda: decode(pictures[:500], config.image_size))
    bares, encodes = zip(*rates, strict=True)
    return {
        "bare": median(rate.clock for rate in bares),
        "encode": median(rate.clock for rate in encodes),
        "decode": decoded.cpu,
        "vs_bare": median(encode.clock / bare.clock for bare, encode in rates),
        "vs_bare_cpu": median(encode.cpu / bare.cpu for bare, encode in rates),
        "inline": median(1 / (1 + bare.cpu / decoded.cpu) for bare, _ in rates),
    }


def decode(pictures: list[Path], size: int) -> int:
    transform = Preprocessing(size).image_transform()
    for picture in pictures:
        transform.center(picture.read_bytes())
    return len(pictures)


def rate_of(work: Callable[[], int]) -> Rate:
    """Return the rates of work that returns its number of images."""
    start, cpu_start = perf_counter(), cpu_seconds()
    count = work()
    return Rate(count / (perf_counter() - start), count / (cpu_seconds() - cpu_start))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process without its workers."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
