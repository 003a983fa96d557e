"""Features of a whole source: read and decoded by workers, computed in batches, written as they come."""

import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
from torch import Tensor

from data_pipeline.settings.command_line import progress_bar
from data_pipeline.shards.scan import SampleReport
from pretrain.conversion.opened import open_network
from pretrain.inference.feature_files import FeatureFile
from pretrain.inference.features import choose_features
from pretrain.inference.images import whole_images
from pretrain.inference.options import CaptionOptions, EncodeOptions, InferenceOptions
from pretrain.inference.pretrained_model import PretrainedModel
from pretrain.inference.reading import Batch, Reading, Sample, read_batches
from pretrain.inference.sources import open_samples


def encode_source(options: EncodeOptions) -> str:
    """Write the features of a source; return a line on them, and one per reason for which samples were skipped.

    Raises ValueError if the weights or the source cannot be used, OSError if the file cannot be written.
    """
    kind, _ = options.data()
    model = open_model(options)
    choice = choose_features(model.network, kind, options.pool, options.layer_numbers)
    report, num_cut, start = SampleReport(), 0, time.perf_counter()
    batches = read_source(options, model)
    shape: tuple[int, ...] = ()
    with closing(batches), FeatureFile(options.out, options.save_as) as file, progress_bar("samples") as progress:

        def write(batch: Batch, found: Tensor | None) -> None:
            rows = np.empty((0,)) if found is None else found.cpu().numpy()
            file.write([described(sample) for sample in batch.samples], rows)

        # one batch behind: a GPU computes the next while the features of the last are copied and written
        last: tuple[Batch, Tensor | None] | None = None
        for batch in batches:
            is_empty = not any(sample.problem is None for sample in batch.samples)
            found = None if is_empty else model.features_of(kind, choice, batch.pixels, batch.ids)
            if last is not None:
                write(*last)
            last = batch, found
            shape = shape if found is None else tuple(found.shape[1:])
            count(batch, report)
            num_cut += sum(sample.was_cut for sample in batch.samples)
            progress.update(len(batch.samples))
        if last is not None:
            write(*last)
        if not report.num_kept:
            raise ValueError("\n".join(["no sample of the source can be read", *report.lines()]))
    seconds = time.perf_counter() - start
    lines = report.lines()
    if num_cut:
        lines.append(f"  cut {num_cut} texts to the {model.text_length(kind)} tokens of training")
    size = " x ".join(map(str, (report.num_kept, *shape)))
    lines.append(
        f"{options.out}: {size} {options.save_as}, {choice}; {model.origin}; {report.num_kept / seconds:.0f} samples "
        f"per second on {model.device}"
    )
    return "\n".join(lines)


def open_model(options: InferenceOptions) -> PretrainedModel:
    """Return the network of the options."""
    opened = open_network(options.source, options.weights)
    return PretrainedModel(opened, options.device, options.precision, options.batch_size)


def read_source(options: EncodeOptions | CaptionOptions, model: PretrainedModel) -> Iterator[Batch]:
    """Return the batches of a source, prepared as the network was trained."""
    kind, source = options.data()
    reading = Reading(
        kind=kind,
        samples=open_samples(kind, source, options.columns, options.cache_folder),
        transform=None if kind == "text" else whole_images(model.preprocessing.image_size, options.max_image_pixels),
        tokenizer=None if kind == "image" else model.tokenizer,
        length=model.text_length(kind),
    )
    return read_batches(reading, options.batch_size, options.num_workers)


def count(batch: Batch, report: SampleReport) -> None:
    """Count the samples of a batch by their problems."""
    for sample in batch.samples:
        if sample.problem is None:
            report.num_kept += 1
        else:
            report.skip(sample.listed.place, sample.problem.partition(" (")[0])


def described(sample: Sample) -> dict[str, object]:
    """Return what a file says of a sample."""
    if sample.problem is not None:
        return {"key": sample.listed.key, "skipped": sample.problem}
    return {"key": sample.listed.key} | ({} if sample.ids is None else {"tokens": sample.num_tokens})
