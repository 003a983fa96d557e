"""Features of a whole source: read and decoded by workers, computed in batches, written as they come."""

import time
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data_pipeline.settings.command_line import progress_bar
from data_pipeline.shards.scan import SampleReport
from pretrain.conversion.opened import open_network
from pretrain.evaluation.chunks import Name, check_finite
from pretrain.inference.feature_files import FeatureFile
from pretrain.inference.features import FeatureChoice
from pretrain.inference.options import CaptionOptions, EncodeOptions, InferenceOptions
from pretrain.inference.pretrained_model import PretrainedModel
from pretrain.inference.reading import Batch, Reading, Sample, read_batches
from pretrain.inference.sources import open_samples


@dataclass
class Encoded:
    """What became of a source."""

    report: SampleReport = field(default_factory=SampleReport)
    num_cut: int = 0
    """Number of texts that were longer than those of training."""
    shape: tuple[int, ...] = ()
    """Shape of the features of one sample."""
    seconds: float = 0.0

    def count(self, batch: Batch, found: Tensor | None) -> None:
        """Count the samples of a batch and take over the shape of their features, None if it has none."""
        count_problems(batch, self.report)
        self.num_cut += sum(sample.was_cut for sample in batch.samples)
        self.shape = self.shape if found is None else tuple(found.shape[1:])


def encode_source(options: EncodeOptions) -> str:
    """Write the features of a source; return a line on them, and one per reason for which samples were skipped.

    Raises ValueError if the weights or the source cannot be used, or if features are not finite or too large for the
    type of the file, OSError if the file cannot be written.
    """
    kind, _ = options.data()
    model = open_model(options)
    choice = model.choose(kind, options.pool, options.layer_numbers)
    encoded = write_features(options, model, choice)
    lines = encoded.report.lines()
    if encoded.num_cut:
        lines.append(f"  cut {encoded.num_cut} texts to the {model.text_length(kind)} tokens of training")
    num_kept = encoded.report.num_kept
    size = " x ".join(map(str, (num_kept, *encoded.shape)))
    rate = f"{num_kept / encoded.seconds:.3g} samples per second on {model.device}"
    return "\n".join([*lines, f"{options.out}: {size} {options.save_as}, {choice}; {model.origin}; {rate}"])


def write_features(options: EncodeOptions, model: PretrainedModel, choice: FeatureChoice) -> Encoded:
    """Write the features of a source with a network that is open already. Raises as `encode_source`."""
    kind, _ = options.data()
    encoded, start, reading = Encoded(), time.perf_counter(), reading_of(options, model)
    with (
        closing(read_batches(reading, options.batch_size, options.num_workers)) as batches,
        FeatureFile(options.out, options.save_as) as file,
        progress_bar("samples", reading.samples.num_samples) as progress,
    ):

        def write(batch: Batch, found: Tensor | None) -> None:
            rows = None if found is None else found.cpu()
            if rows is not None:
                places = [sample.listed.place for sample in batch.samples if sample.problem is None]
                rows = as_saved(rows, options.save_as, places.__getitem__)
            file.write([described(sample) for sample in batch.samples], None if rows is None else rows.numpy())

        # one batch behind: a GPU computes the next while the features of the last are copied and written
        last: tuple[Batch, Tensor | None] | None = None
        for batch in batches:
            found = model.features_of(kind, choice, batch.pixels, batch.ids) if batch.num_good else None
            if last is not None:
                write(*last)
            last = batch, found
            encoded.count(batch, found)
            progress.update(len(batch.samples))
        if last is not None:
            write(*last)
        check_some(encoded.report, options)
    encoded.seconds = time.perf_counter() - start
    return encoded


def as_saved(rows: Tensor, save_as: str, name: Name) -> Tensor:
    """Return features, (n, ...), in the type of their file, "float32" or "float16".

    name: returns that of a row, for messages. Raises NotFiniteError if any is NaN or infinite, ValueError if any is too
    large for the type.
    """
    check_finite(rows, name)
    saved = rows.to(getattr(torch, save_as))
    if saved is rows:
        return rows
    is_lost = ~saved.flatten(1).isfinite().all(1)
    if is_lost.any():
        first = int(is_lost.nonzero()[0])
        raise ValueError(
            f"features of {int(is_lost.sum())} of {len(rows)} samples are too large for {save_as}: {name(first)} has "
            f"{rows[first].abs().max():.3g}, the largest number is {torch.finfo(saved.dtype).max:.3g}; give "
            "--save-as float32"
        )
    return saved


def open_model(options: InferenceOptions) -> PretrainedModel:
    """Return the network of the options."""
    opened = open_network(options.source, options.weights)
    return PretrainedModel(opened, options.device, options.precision, options.batch_size)


def reading_of(options: EncodeOptions | CaptionOptions, model: PretrainedModel) -> Reading:
    """Return how the samples of a source become inputs: as the network was trained."""
    kind, source = options.data()
    return Reading(
        samples=open_samples(kind, source, options.columns, options.cache_folder),
        transform=None if kind == "text" else model.preprocessing.image_transform(options.max_image_pixels),
        tokenizer=None if kind == "image" else model.tokenizer,
        length=model.text_length(kind),
    )


def count_problems(batch: Batch, report: SampleReport) -> None:
    """Count the samples of a batch by their problems."""
    report.num_kept += batch.num_good
    for sample in batch.samples:
        if sample.problem is not None:
            report.skip(sample.listed.place, sample.problem.partition(" (")[0])


def check_some(report: SampleReport, options: EncodeOptions | CaptionOptions) -> None:
    """Raise ValueError, with what was skipped, if no sample could be read."""
    if not report.num_kept:
        kind, source = options.data()
        sentence = f"{source} holds no {kind} that can be read; docs/data.md lists the sources that are read"
        raise ValueError("\n".join([sentence, *report.lines()]))


def described(sample: Sample) -> dict[str, object]:
    """Return what a file says of a sample."""
    if sample.problem is not None:
        return {"key": sample.listed.key, "skipped": sample.problem}
    return {"key": sample.listed.key} | ({} if sample.ids is None else {"tokens": sample.num_tokens})
