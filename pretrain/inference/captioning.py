"""Captions of a whole source of images, one JSON line per image, in the order of the source.

{"key": "a/cat.jpg", "caption": "a cat on a mat", "score": -3.21}
{"key": "a/broken.jpg", "skipped": "image cannot be decoded (...)"}
"""

import json
import time
from contextlib import closing

from data_pipeline.files.partial_files import own_partial
from data_pipeline.files.retries import naming_write_errors
from data_pipeline.settings.command_line import progress_bar
from data_pipeline.shards.scan import SampleReport
from model.captioner import CaptionRules
from pretrain.evaluation.chunks import check_finite
from pretrain.inference.encoding import check_some, count_problems, described, open_model, reading_of
from pretrain.inference.options import CaptionOptions
from pretrain.inference.pretrained_model import PretrainedModel
from pretrain.inference.reading import Batch, read_batches


def caption_source(options: CaptionOptions) -> str:
    """Write captions of the images of a source; return a line on them, and one per reason for skipped images.

    Raises ValueError if the weights or the source cannot be used, OSError if the file cannot be written.
    """
    model = open_model(options)
    rules = model.caption_rules(options.num_beams, options.length_penalty, options.max_length, options.min_words)
    report, start, partial = SampleReport(), time.perf_counter(), own_partial(options.out)
    reading = reading_of(options, model)
    try:
        with (
            naming_write_errors(options.out),
            closing(read_batches(reading, options.batch_size, options.num_workers)) as batches,
            partial.open("w") as file,
            progress_bar("images", reading.samples.num_samples) as progress,
        ):
            for batch in batches:
                file.write("".join(json.dumps(line) + "\n" for line in captioned(batch, model, rules)))
                count_problems(batch, report)
                progress.update(len(batch.samples))
        check_some(report, options)
        with naming_write_errors(options.out):
            partial.rename(options.out)
    finally:
        partial.unlink(missing_ok=True)
    how = "greedily" if rules.num_beams == 1 else f"by {rules.num_beams} beams, penalty {rules.length_penalty:g}"
    rate = report.num_kept / (time.perf_counter() - start)
    line = f"{options.out}: {report.num_kept} captions, {how}; {model.origin}; {rate:.1f} images per second on "
    return "\n".join([*report.lines(), f"{line}{model.device}"])


def captioned(batch: Batch, model: PretrainedModel, rules: CaptionRules) -> list[dict[str, object]]:
    """Return the lines of a batch."""
    lines = [described(sample) for sample in batch.samples]
    good = [line for line in lines if "skipped" not in line]
    if good:
        assert batch.pixels is not None
        found = model.captions_of(model.inputs(batch.pixels), rules)
        check_finite(found.scores[:, None], lambda place: str(good[place]["key"]))
        for line, ids, score in zip(good, found.ids.tolist(), found.scores.tolist(), strict=True):
            line |= {"caption": model.tokenizer.decode(ids), "score": round(score, 4)}
    return lines
