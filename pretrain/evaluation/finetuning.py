"""The evaluation of a finetuned network on held-out samples of its task; choices.py and written_captions.py beside it
have the figures.

Captions are written by a network with all of its weights on every rank: see pretrain/engine/whole_network.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.loading.shard_dataset import ShardDataset
from data_pipeline.loading.task_batch import TaskBatch
from data_pipeline.loading.task_config import labels_of
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.samples.tasks import Identifier
from data_pipeline.texts.tokenizer import TextTokenizer
from model.kernels.text_masks import mask_texts
from model.networks import build_network
from model.objective import num_masked
from model.task_networks import CaptionNetwork, CaptionTargets
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.engine.whole_network import fill_from_partitions, is_partitioned
from pretrain.evaluation.choices import choice_figures, choice_names, choice_results, choice_rows
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.evaluation import Evaluation, Figures, Network, check_best, left_out, ratio, trained_on
from pretrain.evaluation.task_inputs import TaskInputs
from pretrain.evaluation.task_samples import HeldOutTask, is_labelled, open_held_out_task
from pretrain.evaluation.written_captions import (
    CAPTION_NAMES,
    LONGEST,
    Writing,
    caption_figures,
    caption_results,
    caption_rows,
    caption_rules,
    texts_of,
)
from pretrain.formats.preprocessing import task_preprocessing
from pretrain.jobs.job import Job
from pretrain.survival.console import warn

SETTING = "data.held_out"
CAPTION_LOSS = "loss/caption"
MASK_RATIO, MASK_SEED = 0.7, 0
"""Share of a caption's tokens that is hidden for the held-out loss, and the seed that chooses them: the same for all
networks, so that their losses can be compared."""


@dataclass(frozen=True)
class Evaluated:
    """Figures, and what the network says of each sample that could be read."""

    figures: Figures
    results: list[tuple[Identifier, str]]
    places: list[int]
    """Place of each result among the samples."""


class TaskEvaluation(Evaluation):
    """The figures of one task."""

    def __init__(
        self,
        samples: HeldOutTask,
        inputs: TaskInputs,
        chunk_size: int,
        tokenizer: TextTokenizer | None = None,
        writing: Writing | None = None,
    ):
        """tokenizer, writing: for captions."""
        self.samples, self.inputs, self.chunk_size = samples, inputs, chunk_size
        self.tokenizer, self.writing = tokenizer, writing
        if samples.task == "caption":
            self.names: tuple[str, ...] = (CAPTION_LOSS, *CAPTION_NAMES)
        else:
            self.names = choice_names(samples.task, samples.labels.num_labels)

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        return self.evaluate(network, ranks).figures

    def evaluate(self, network: Network, ranks: Ranks) -> Evaluated:
        """Return the figures and the results. All ranks call it. Raises Interrupted, NotFiniteError."""
        samples = self.samples
        if samples.task != "caption":
            rows, is_good = self._by_place(ranks, lambda batch: self._choices(network, batch))
            figures, results = choice_figures(samples, rows, is_good), choice_results(samples, rows, is_good)
            return Evaluated(figures, results, samples.usable(is_good))
        assert self.tokenizer is not None and self.writing is not None
        losses, is_good = self._by_place(ranks, lambda batch: self._caption_losses(network, batch))
        kept = is_good & torch.tensor([found is not None and is_labelled(found) for found in samples.annotations])
        loss, count = losses[kept].double().sum(0)
        writer = caption_writer(network)
        rules = caption_rules(self.tokenizer, writer.encoder.config.vocab_size, self.writing)
        ids, is_good = self._by_place(
            ranks, lambda batch: caption_rows(writer, self.inputs.pixels(batch.images), rules)
        )
        texts = texts_of(ids, self.tokenizer)
        figures = {CAPTION_LOSS: ratio(loss, count), **caption_figures(samples, texts, is_good)}
        return Evaluated(figures, caption_results(samples, texts, is_good), samples.usable(is_good))

    def _by_place(self, ranks: Ranks, compute: Any) -> tuple[Tensor, Tensor]:
        """Return the rows of all samples, and which of them could be read.

        compute: called with a batch on the device, returns a row per sample.
        """
        device = self.inputs.device

        @torch.no_grad()
        def of_places(places: range) -> Tensor:
            batch, is_good = self.samples.batch(places)
            return torch.cat([compute(batch.to(device)).float(), is_good[:, None].to(device)], 1)

        rows = ranks.by_place(self.samples.num_samples, self.chunk_size, of_places, device, self.samples.key)
        return rows[:, :-1], rows[:, -1] > 0

    def _choices(self, network: Network, batch: TaskBatch) -> Tensor:
        assert batch.targets is not None
        return choice_rows(self.samples.task, network(self.inputs.of(batch)), batch.targets)

    def _caption_losses(self, network: Network, batch: TaskBatch) -> Tensor:
        """Return the sum of the losses of the hidden words of each caption, and their number, (B, 2)."""
        assert self.tokenizer is not None and batch.text_ids is not None and batch.text_padding is not None
        masked = mask_texts(
            MASK_SEED,
            batch.sample_ids,
            batch.text_ids,
            batch.text_padding,
            MASK_RATIO,
            self.tokenizer.mask_id,
            self.tokenizer.piece_ids,
            "reference",
        )
        counts = num_masked(batch.text_lengths, MASK_RATIO)
        targets = CaptionTargets(masked.positions, masked.labels, counts)
        losses = network(self.inputs.of(batch, masked.ids), None, targets, 0.0, True)[:, 0]
        sums = torch.stack([part.sum() for part in losses.split(list(counts))])
        return torch.stack([sums, sums.new_tensor(counts)], 1)

    def warnings(self, dataset: ShardDataset[Any, Any]) -> list[str]:
        return trained_on({SETTING: self.samples.index}, dataset)

    def describe(self, evaluated: Evaluated) -> str:
        """Return a line on the samples that were evaluated, and how captions were written."""
        num_samples = len(evaluated.places)
        without = left_out(self.samples.num_samples - num_samples)
        line = f"{num_samples} samples from {self.samples.folder}{without}"
        if self.writing is None:
            return line
        beams, penalty = self.writing.num_beams, self.writing.length_penalty
        return f"{line}, captions by {beams} beam{'s' * (beams > 1)}, length penalty {penalty:g}"


def caption_writer(network: Any) -> CaptionNetwork:
    """Return a network that this rank can run alone: an engine's, or a copy with all weights. All ranks call it."""
    if isinstance(network, CaptionNetwork):
        return network
    own = network.module
    assert isinstance(own, CaptionNetwork)
    if not is_partitioned(network):
        return own
    with torch.device("meta"):
        empty = build_network(own.encoder.config, own.heads, own.encoder.kernels)
    assert isinstance(empty, CaptionNetwork)
    return fill_from_partitions(network, empty)


def writing_of(settings: EvaluationConfig, max_length: int) -> Writing:
    """Return how captions are written. max_length: tokens of the longest caption of training."""
    return Writing(settings.num_beams, settings.length_penalty, min(max_length, LONGEST))


def check_no_other_data(settings: EvaluationConfig) -> None:
    """Raise ValueError if held-out data of another kind of run is given."""
    given = [name for name in ("images", "pairs", "texts", "labelled") if getattr(settings, name)]
    if given:
        raise ValueError(f"a finetuned network is evaluated on {SETTING}; leave evaluation.{given[0]} out")


def evaluation_of_finetuning(job: Job[FinetuneConfig], check_shards: bool) -> TaskEvaluation | None:
    """Return the evaluation of a prepared job, None if its config has none. Raises ValueError."""
    config = job.config
    settings, data, task = config.evaluation, config.data, config.task
    check_no_other_data(settings)
    if not config.is_evaluated:
        return None
    assert data.held_out is not None
    tokenizer = None if task == "classify" or data.text_tokenizer is None else TextTokenizer(data.text_tokenizer)
    labels = TaskLabels(task, labels_of(data, task))
    preprocessing = task_preprocessing(config.model, config.heads, data.text_length)
    samples = open_held_out_task(
        data.held_out, SETTING, data, labels, tokenizer, preprocessing, settings.num_samples, check_shards
    )
    if not samples.has_labels:
        raise ValueError(
            f"{SETTING} {samples.folder} holds a test split, without answers to compare with; give another split"
        )
    if samples.problems and (not dist.is_initialized() or dist.get_rank() == 0):  # a dry run has no ranks
        num_bad, reason = samples.problems.total(), samples.problems.most_common(1)[0][0]
        of_all = f"{num_bad} of {samples.num_samples} samples"
        warn(f"warning: {SETTING} {samples.folder}: {of_all} are left out of all figures: {reason}")
    writing = writing_of(settings, data.text_length) if task == "caption" else None
    patch_size, mean, std = config.model.patch_size, preprocessing.mean, preprocessing.std
    inputs = TaskInputs(task, patch_size, config.dtype, job.device, mean, std)
    found = TaskEvaluation(samples, inputs, settings.chunk_size, tokenizer, writing)
    check_best(settings.best, found.names)
    return found
