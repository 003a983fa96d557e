"""Checks of a recipe's data: shards, tokenizers, and the first batch of a rank."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.loading.kind_sources import open_sources
from data_pipeline.samples.sample import Kind
from model.config import MultiwayConfig
from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import EncoderRunConfig, RunConfig
from pretrain.diagnosis.findings import Finding, from_error

if TYPE_CHECKING:
    from data_pipeline.loading.kind_sources import KindSources
    from data_pipeline.loading.shard_dataset import ShardDataset
    from pretrain.jobs.job import Job
    from pretrain.run.start import EvaluationOf


def recipe_data(config: RunConfig, ranks: int) -> Iterator[Finding]:
    """Yield the findings of shards, tokenizers, and the first batch of rank 0 of these ranks."""
    has_mistake = False
    sources = dict[Kind, "KindSources"]()
    for finding in (*_shards(config, sources), *_tokenizers(config, sources)):
        has_mistake |= finding.level == "error"
        yield finding
    if has_mistake:
        yield Finding("ok", "first batch", "not read, because of the errors above")
    else:
        yield from _first_batch(config, ranks)


def _shards(config: RunConfig, opened: "dict[Kind, KindSources]") -> Iterator[Finding]:
    """Yield a finding per kind of data; fill `opened` with the sources of each kind that is sound."""
    for number, (kind, entries, count) in enumerate(config.kinds):
        if not count:
            continue
        try:
            opened[kind] = open_sources(kind, entries, config.data, count, config.seed + number, check_shards=True)
        except (ValueError, OSError) as error:
            yield from_error(f"{kind} shards", error)
            continue
        yield Finding("ok", f"{kind} shards", opened[kind].describe().removeprefix(f"{kind}: "))
        for warning in opened[kind].warnings():
            yield from_error(f"{kind} shards", ValueError(warning), "warning")


def _tokenizers(config: RunConfig, sources: "dict[Kind, KindSources]") -> Iterator[Finding]:
    """Yield whether the tokenizers fit the network, the text tokenizer the texts, and whether there are the weights
    that the run starts from."""
    if not isinstance(config, EncoderRunConfig):
        return
    masked = config.masked_data if isinstance(config, ContrastConfig) else config
    checks: list[tuple[str, Iterator[Finding]]] = []
    if not isinstance(config, FinetuneConfig) or config.has_text:
        checks.append(("text tokenizer", _text_tokenizer(config, sources)))
    if isinstance(masked, PretrainConfig):
        checks.append(("visual tokenizer", _visual_tokenizer(masked)))
    if config.initial_weights is not None:
        checks.append(("initial weights", _initial_weights(config.initial_weights, config.model)))
    for subject, found in checks:
        try:
            yield from found
        except (ValueError, OSError) as error:
            yield from_error(subject, error)


def _text_tokenizer(config: EncoderRunConfig, sources: "dict[Kind, KindSources]") -> Iterator[Finding]:
    from data_pipeline.texts.token_coverage import covered_share
    from data_pipeline.texts.tokenizer import TextTokenizer

    subject, path, expected = "text tokenizer", config.data.text_tokenizer, config.model.vocab_size
    assert path is not None
    tokenizer = TextTokenizer(path)
    if tokenizer.vocab_size > expected:
        yield Finding(
            "error", subject, f"{path} has {tokenizer.vocab_size} ids, more than model.vocab_size {expected}",
            f"give the tokenizer that the shards were written for, or set --model.vocab-size {tokenizer.vocab_size}",
        )  # fmt: skip
        return
    yield Finding("ok", subject, f"{path}: {tokenizer.vocab_size} ids for {expected} rows of the network")
    for source in (source for kind, found in sources.items() if kind != "image" for source in found.sources):
        share = covered_share(source.reader, tokenizer)
        if share.warning:
            yield from_error(subject, ValueError(f"{source.name}: {share.warning}"), "warning")


def _visual_tokenizer(config: PretrainConfig) -> Iterator[Finding]:
    from pretrain.jobs.visual_tokens import load_visual_tokenizer

    subject, path, expected = "visual tokenizer", config.visual_tokenizer, config.model.num_visual_tokens
    num_codes = load_visual_tokenizer(path).config.num_codes
    if num_codes != expected:
        yield Finding(
            "error", subject, f"{path} has {num_codes} codes, the network expects {expected}",
            f"give another --visual-tokenizer, or set --model.num-visual-tokens {num_codes}",
        )  # fmt: skip
    else:
        yield Finding("ok", subject, f"{path}: {num_codes} codes")


def _initial_weights(source: Path, model: MultiwayConfig) -> Iterator[Finding]:
    """Find the weights; whether they fit the network is seen when rank 0 is prepared."""
    from pretrain.checkpoints.initial_weights import open_initial_weights

    yield Finding("ok", "initial weights", f"{open_initial_weights(source, model).folder}")


def _first_batch(config: RunConfig, ranks: int) -> Iterator[Finding]:
    """Prepare rank 0 as a run does, and read its part of the first batch, or of a batch that more ranks would share."""
    import torch

    from pretrain.run.start import open_inputs

    subject = "recipe"
    kind, evaluation_of = training_of(config)
    job = kind(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        dataset, _ = open_inputs(job, 0, ranks)
    except (ValueError, OSError) as error:
        yield from_error(subject, error)
        return
    yield Finding("ok", subject, f"network, batch and DeepSpeed's configuration fit {ranks} rank{'s' * (ranks > 1)}")
    for warning in config.warnings():
        yield from_error(subject, ValueError(warning), "warning")
    yield from _held_out_data(job, evaluation_of, dataset)
    started = time.monotonic()
    batch = dataset[0]
    seconds, subject = time.monotonic() - started, "first batch"
    if batch.failure:
        yield from_error(subject, ValueError(batch.failure))
        return
    speed = len(batch.keys) / max(seconds, 1e-9)
    text = f"{len(batch.keys)} samples of rank 0 in {seconds:.1f} s, {speed:.0f} a second in one process"
    if batch.bad_samples:
        remedy = "python -m data_pipeline.check_shards FOLDER names all of them"
        yield Finding("warning", subject, f"{text}; {len(batch.bad_samples)} were bad: {batch.bad_samples[0]}", remedy)
    else:
        yield Finding("ok", subject, text)


def _held_out_data(
    job: "Job[Any]", evaluation_of: "EvaluationOf", dataset: "ShardDataset[Any, Any]"
) -> Iterator[Finding]:
    """Open the data of the evaluation as a run does."""
    subject, settings = "held-out data", job.config.evaluation
    try:
        evaluation = evaluation_of(job, True)
    except (ValueError, OSError) as error:
        yield from_error(subject, error)
        return
    if evaluation is None:
        yield Finding("ok", subject, "none: the run is not evaluated while it trains")
        return
    yield Finding("ok", subject, f"{len(evaluation.names)} figures every {settings.every_steps} steps")
    for warning in evaluation.warnings(dataset):
        yield from_error(subject, ValueError(warning), "warning")


def training_of(config: RunConfig) -> "tuple[type[Job[Any]], EvaluationOf]":
    """Return the job that trains a config, and its evaluation, as the command of its kind hands them to the loop."""
    if isinstance(config, PretrainConfig):
        from pretrain.evaluation.pretraining import evaluation_of_pretraining
        from pretrain.jobs.pretraining import Pretraining

        return Pretraining, evaluation_of_pretraining
    if isinstance(config, ContrastConfig):
        from pretrain.evaluation.contrast import evaluation_of_contrast
        from pretrain.jobs.contrast import Contrast

        return Contrast, evaluation_of_contrast
    if isinstance(config, FinetuneConfig):
        from pretrain.evaluation.finetuning import evaluation_of_finetuning
        from pretrain.jobs.finetuning import Finetuning

        return Finetuning, evaluation_of_finetuning
    from pretrain.evaluation.visual_tokenizer import evaluation_of_visual_tokenizer
    from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining

    return VisualTokenizerTraining, evaluation_of_visual_tokenizer
