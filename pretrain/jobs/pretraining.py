"""The job of BEiT-3: masked data modeling on images, image-text pairs and texts, all in one packed step."""

from collections.abc import Iterable
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import MultiwayConfig
from model.flash_attention import activate_flash_attention
from model.flops import training_flops
from model.initialization import init_weights
from model.kernels.backend import choose_backend
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import MultiwayBlock
from model.objective import OBJECTIVES
from model.visual_tokenizer import VisualTokenizer
from pretrain.checkpoints.initial_weights import (
    InitialWeights,
    check_initial_weights,
    load_initial_weights,
    weights_file,
    weights_of_new_run,
)
from pretrain.checkpoints.reader import TEXT_TOKENIZER_NAME
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.machine_memory import check_batch_fits, check_network_fits
from pretrain.formats.vocabulary import unused_rows
from pretrain.jobs.job import Job, Step, StepLoss, StepWork, open_dataset
from pretrain.jobs.micro_step import MicroStep, make_micro_step
from pretrain.jobs.visual_tokens import check_precision, load_visual_tokenizer, tokenizer_dtype, tokenizer_view_size
from pretrain.survival.agreement import summed_over_ranks

EXPERTS = ("vision", "language", "vision_language")
"""Experts of a block, as its parameters name them."""


class Pretraining(Job[PretrainConfig]):
    """Masked data modeling on images, pairs and texts, all in one packed step."""

    # A block's experts run on as many rows as the batch has of each modality, perhaps none. As one leaf ZeRO-3 gathers
    # all of them whatever the rows are, so that ranks with different batches make the same collectives.
    leaf_modules = (MultiwayBlock,)
    undecayed = ("vision_embed.cls_token", "vision_embed.pos_embed")  # Microsoft's rule: text positions decay
    bfloat16_weights = True

    visual_tokenizer: VisualTokenizer
    text_tokenizer: TextTokenizer
    initial_weights: InitialWeights | None = None
    """Only if the config gives some."""
    attention: str
    """The attention that torch runs, for the log."""
    loss_weights: Tensor
    """(4,) in the order of OBJECTIVES."""

    def prepare(self, rank: int, world_size: int) -> StepDataset:
        config, network = self.config, self.config.model
        self.initial_weights = weights_of_new_run(config)  # a mistake in their path comes before those of the data
        choose_backend(config.kernels, self.device)
        self.attention = activate_flash_attention(config.flash_attention, self.device)
        check_network_fits(lambda: MaskedDataModel(network))
        self.loss_weights = torch.tensor(config.objective.weights, device=self.device)
        self.visual_tokenizer = load_visual_tokenizer(config.visual_tokenizer).to(self.device)
        view_size = tokenizer_view_size(self.visual_tokenizer.config, network)
        check_visual_tokenizer(self.visual_tokenizer, view_size, config, self.device)
        image_size = max(network.image_size, view_size)
        text_ids = config.pairs_per_step * config.data.caption_length + config.texts_per_step * config.data.text_length
        check_batch_fits(config.samples_per_step, image_size, text_ids, world_size)
        dataset = open_dataset(config, image_size, rank, world_size)
        assert dataset.tokenizer is not None
        self.text_tokenizer = dataset.tokenizer
        check_vocabulary(dataset.tokenizer, network)
        if self.initial_weights is not None:
            check_initial_weights(self.initial_weights, network, config.data.text_tokenizer)
        return dataset

    def files(self, config: PretrainConfig) -> dict[str, Path | None]:
        found = {"visual tokenizer": config.visual_tokenizer, "text tokenizer": config.data.text_tokenizer}
        if self.initial_weights is not None:
            found["initial weights"] = weights_file(self.initial_weights.folder)
        return found

    def build_model(self, is_new: bool) -> nn.Module:
        model = MaskedDataModel(self.config.model, self.config.kernels, self.config.activation_checkpointing)
        if self.initial_weights is not None and is_new:
            load_initial_weights(self.initial_weights, model)
        else:
            init_weights(model, self.config.model, self.config.seed)
        return model

    def start_step(self, engine: deepspeed.DeepSpeedEngine, batch: StepBatch) -> Step:
        micro_steps = [
            make_micro_step(self.config, part, self.visual_tokenizer, self.text_tokenizer)
            for part in batch.micro_batches(self.config.gradient_accumulation_steps)
        ]
        return MaskedStep(micro_steps, self.loss_weights, self.config.objectives)

    def part_of(self, name: str) -> str:
        return part_of_block(name)

    def checkpoint_files(self) -> dict[str, bytes]:
        assert self.config.data.text_tokenizer is not None
        return {TEXT_TOKENIZER_NAME: self.config.data.text_tokenizer.read_bytes()}

    def describe(self) -> list[str]:
        config, num_ids = self.config, self.text_tokenizer.vocab_size
        remedy = f"set --model.vocab-size {num_ids}, or leave them out later with pretrain.convert --trim-vocab"
        share = config.objective.whole_image_share
        whole = f" ({share:.2g} of the pairs keep their image whole)" if share and config.pairs_per_step else ""
        unused = unused_rows(num_ids, config.model, remedy)
        return [
            f"kernels: {choose_backend(config.kernels, self.device)}; attention: {self.attention}",
            f"hidden: {config.num_masked_patches} of {config.model.num_patches} patches of an image{whole}, "
            f"{config.objective.caption_mask_ratio:.0%} of a caption, {config.objective.text_mask_ratio:.0%} of a text",
            *([unused] if unused else []),
        ]

    def work(self, batch: StepBatch) -> StepWork:
        config, num_pairs = self.config, len(batch.caption_lengths)
        step = config.step_size(len(batch.images) - num_pairs, batch.caption_lengths, batch.text_lengths)
        return StepWork(step.num_tokens(config.model), training_flops(config.model, step))


class MaskedLosses:
    """Four cross-entropies, each a mean over the masked tokens of the global batch, and their weighted sum.

    Shapes: (4,) tensors are in the order of OBJECTIVES.
    """

    def __init__(self, targets: Iterable[MaskedTargets], weights: Tensor, objectives: tuple[str, ...]):
        """targets: of each micro-step of this rank; weights: (4,); objectives: names of the losses to log. Sums counts
        over all ranks."""
        self.objectives = objectives
        # Ranks and micro-steps hold different numbers of masked tokens: a mean of their means would weigh tokens
        # differently in each, and the run would depend on the topology. So the counts of the global batch are summed
        # before the first forward, and every loss below is its part of the one global mean.
        self.counts = summed_over_ranks(torch.stack([part.counts() for part in targets]).sum(0))
        self.scale = weights / self.counts.clamp(min=1)  # a batch may mask nothing of a kind

    def weighted(self, loss_sums: Tensor) -> Tensor:
        """Return a micro-step's part of the weighted sum; loss_sums: (4,), its sums of cross-entropies."""
        return (loss_sums * self.scale).sum()

    def reduce(self, loss_sums: list[Tensor]) -> StepLoss:
        """Return the losses of the global batch from the sums of this rank's micro-steps; sums over all ranks."""
        sums = summed_over_ranks(sum(loss_sums, start=torch.zeros_like(self.scale)))
        means = dict(zip(OBJECTIVES, sums / self.counts, strict=True))  # NaN, in the log null, if nothing was masked
        return StepLoss(self.weighted(sums), {name: means[name] for name in self.objectives})


class MaskedStep(Step):
    """The weighted sum of the losses of masked data modeling."""

    def __init__(self, micro_steps: list[MicroStep], loss_weights: Tensor, objectives: tuple[str, ...]):
        """loss_weights: (4,); objectives: names of the losses to log. Sums counts over all ranks."""
        self.micro_steps = micro_steps
        self.losses = MaskedLosses((micro.targets for micro in micro_steps), loss_weights, objectives)
        self.undo_averaging = dist.get_world_size() * len(micro_steps)

    def forward(self, engine: deepspeed.DeepSpeedEngine, micro_step: MicroStep) -> tuple[Tensor, Tensor]:
        loss_sums = engine(micro_step.inputs, micro_step.targets, micro_step.drop_path_scale)  # (4,)
        # DeepSpeed divides gradients by ranks and micro-steps, which the weighted losses have done already
        return self.losses.weighted(loss_sums) * self.undo_averaging, loss_sums.detach()

    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        return self.losses.reduce(metrics)


def check_vocabulary(tokenizer: TextTokenizer, network: MultiwayConfig) -> None:
    """Raise ValueError if a network has no row for some of the text tokenizer's ids."""
    if tokenizer.vocab_size > network.vocab_size:
        raise ValueError(
            f"text tokenizer has {tokenizer.vocab_size} ids, more than model.vocab_size {network.vocab_size}; "
            "set --model.vocab-size"
        )


def check_visual_tokenizer(
    tokenizer: VisualTokenizer, view_size: int, config: PretrainConfig, device: torch.device
) -> None:
    """Raise ValueError if its codes are not the network's, or not those of float32 in the precision it runs in."""
    num_codes, expected = tokenizer.config.num_codes, config.model.num_visual_tokens
    if num_codes != expected:
        raise ValueError(
            f"visual tokenizer has {num_codes} codes, the model expects {expected}; "
            f"set --model.num-visual-tokens {num_codes}"
        )
    check_precision(tokenizer, view_size, tokenizer_dtype(config, device))


def part_of_block(name: str) -> str:
    """Return the part of a block that a parameter of an encoder counts to; rest if it is in none."""
    _, is_in_block, place = name.partition(".blocks.")
    words = place.split(".")
    if not is_in_block:
        return "rest"  # embeddings, the last norm, heads
    return "attention" if {"attn", "norm1"} & {*words} else next(word for word in words if word in EXPERTS)
