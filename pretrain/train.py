"""Pretrain a BEiT-3: deepspeed --module pretrain.train RECIPE [overrides]

The loop around `train_step`, and the exit codes, are in pretrain/run/loop.py.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipeline.files.hashing import file_sha256
from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.texts.tokenizer import TextTokenizer
from model.experts import ExpertNorm
from model.flops import training_flops
from model.initialization import init_weights
from model.kernels.backend import choose_backend
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayBlock
from model.objective import OBJECTIVES
from model.pretrained import WEIGHTS_NAME, load_weights, read_config
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.command_line import parse_recipe
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.machine_memory import check_batch_fits, check_network_fits
from pretrain.formats.vocabulary import fingerprint_in, tokenizer_beside, unused_rows
from pretrain.jobs.micro_step import make_micro_step
from pretrain.jobs.visual_tokens import check_precision, load_visual_tokenizer, tokenizer_dtype, tokenizer_view_size
from pretrain.recipes import RECIPES
from pretrain.run.loop import Job, open_dataset, run_job
from pretrain.run.speed import StepWork
from pretrain.survival.agreement import summed_over_ranks


def main() -> None:
    run_job(Pretraining, parse_recipe(RECIPES, "pretrain.train"))


class Pretraining(Job[PretrainConfig]):
    """Masked data modeling on images, pairs and texts, all in one packed step."""

    leaf_modules = (MultiwayBlock, ExpertNorm)
    undecayed = ("vision_embed.cls_token", "vision_embed.pos_embed")  # Microsoft's rule: text positions decay
    bfloat16_weights = True

    visual_tokenizer: VisualTokenizer
    text_tokenizer: TextTokenizer
    loss_weights: Tensor
    """(4,) in the order of OBJECTIVES."""

    def prepare(self, rank: int, world_size: int) -> StepDataset:
        config = self.config
        choose_backend(config.kernels, self.device)
        check_network_fits(lambda: MaskedDataModel(config.model))
        self.loss_weights = torch.tensor(config.objective.weights, device=self.device)
        self.visual_tokenizer = load_visual_tokenizer(config.visual_tokenizer).to(self.device)
        visual, network = self.visual_tokenizer.config, config.model
        if visual.num_codes != network.num_visual_tokens:
            raise ValueError(
                f"visual tokenizer has {visual.num_codes} codes, the model expects {network.num_visual_tokens}; "
                f"set --model.num-visual-tokens {visual.num_codes}"
            )
        view_size = tokenizer_view_size(visual, network)
        check_precision(self.visual_tokenizer, view_size, tokenizer_dtype(config, self.device))
        image_size = max(network.image_size, view_size)
        text_ids = config.pairs_per_step * config.data.caption_length + config.texts_per_step * config.data.text_length
        check_batch_fits(config.samples_per_step, image_size, text_ids, world_size)
        dataset = open_dataset(config, image_size, rank, world_size)
        assert dataset.tokenizer is not None
        self.text_tokenizer = dataset.tokenizer
        if dataset.tokenizer.vocab_size > network.vocab_size:
            raise ValueError(
                f"text tokenizer has {dataset.tokenizer.vocab_size} ids, more than model.vocab_size "
                f"{network.vocab_size}; set --model.vocab-size"
            )
        if config.initial_weights is not None:
            check_initial_weights(config)
        return dataset

    def describe(self) -> list[str]:
        config, num_ids = self.config, self.text_tokenizer.vocab_size
        remedy = f"set --model.vocab-size {num_ids}, or leave them out later with pretrain.convert --trim-vocab"
        share = config.objective.whole_image_share
        whole = f" ({share:.2g} of the pairs keep their image whole)" if share and config.pairs_per_step else ""
        unused = unused_rows(num_ids, config.model, remedy)
        return [
            f"kernels: {choose_backend(config.kernels, self.device)}",
            f"hidden: {config.num_masked_patches} of {config.model.num_patches} patches of an image{whole}, "
            f"{config.objective.caption_mask_ratio:.0%} of a caption, {config.objective.text_mask_ratio:.0%} of a text",
            *([unused] if unused else []),
        ]

    def work(self, batch: StepBatch) -> StepWork:
        config, num_pairs = self.config, len(batch.caption_lengths)
        step = config.step_size(len(batch.images) - num_pairs, batch.caption_lengths, batch.text_lengths)
        return StepWork(step.num_tokens(config.model), training_flops(config.model, step))

    def files(self, config: PretrainConfig) -> dict[str, Path | None]:
        found = {"visual tokenizer": config.visual_tokenizer, "text tokenizer": config.data.text_tokenizer}
        if config.initial_weights is not None:
            found["initial weights"] = config.initial_weights / WEIGHTS_NAME
        return found

    def build_model(self, is_new: bool) -> nn.Module:
        model = MaskedDataModel(self.config.model, self.config.kernels, self.config.activation_checkpointing)
        if self.config.initial_weights is not None and is_new:
            load_weights(model, self.config.initial_weights)
        else:
            init_weights(model, self.config.model, self.config.seed)
        return model

    def train_step(self, engine: deepspeed.DeepSpeedEngine, batch: StepBatch) -> dict[str, Any]:
        config = self.config
        micro_steps = [
            make_micro_step(config, part, self.visual_tokenizer, self.text_tokenizer)
            for part in batch.micro_batches(config.gradient_accumulation_steps)
        ]
        # losses are means over the masked tokens of the global batch, so its counts are agreed on first
        global_counts = summed_over_ranks(torch.stack([micro.targets.counts() for micro in micro_steps]).sum(0))
        scale = self.loss_weights / global_counts.clamp(min=1)
        # DeepSpeed divides by ranks and micro-steps; the counts above have done so already
        undo_averaging = dist.get_world_size() * len(micro_steps)
        sums, factor = torch.zeros_like(scale), scale.new_ones(())
        for number, micro in enumerate(micro_steps, start=1):
            self.watchdog.at("forward")
            loss_sums = engine(micro.inputs, micro.targets, micro.drop_path_scale)  # (4,)
            sums += loss_sums.detach()
            if number == len(micro_steps):
                sums = summed_over_ranks(sums)
                factor = self.guard.factor((sums * scale).sum())
            self.watchdog.at("backward")
            engine.backward((loss_sums * scale).sum() * undo_averaging * factor)
            self.watchdog.at("optimizer")
            engine.step()  # acts on the last micro-step; on a gradient that is not finite, no rank does

        # NaN, in the log null, where a step asked nothing
        means = dict(zip(OBJECTIVES, sums / global_counts, strict=True))
        return {"loss": (sums * scale).sum(), "losses": {name: means[name] for name in config.objectives}}


def check_initial_weights(config: PretrainConfig) -> None:
    """Raises ValueError, listing the differences, where the weights to begin from are not for this run."""
    folder = config.initial_weights
    assert folder is not None and config.data.text_tokenizer is not None
    if folder.is_file():
        raise ValueError(
            f"initial_weights {folder} is a file; convert it with python -m pretrain.convert {folder} FOLDER --from "
            "beit3, and give FOLDER"
        )
    free = {"drop_path_rate", "init_std", "embed_init_std"}
    found, expected = asdict(read_config(folder)), asdict(config.model)
    differences = [
        f"model.{name} is {found[name]} there, {expected[name]} here"
        for name in expected
        if name not in free and found[name] != expected[name]
    ]
    beside, fingerprint = tokenizer_beside(folder), fingerprint_in(folder / WEIGHTS_NAME)
    if fingerprint is None and beside is not None:
        fingerprint = file_sha256(beside)
    if fingerprint not in (None, file_sha256(config.data.text_tokenizer)):
        differences.append(
            f"its words are those of {beside or f'a text tokenizer with SHA-256 {fingerprint}'}, "
            f"not of {config.data.text_tokenizer}"
        )
    if differences:
        raise ValueError(f"initial_weights {folder} do not fit: {'; '.join(differences)}")


if __name__ == "__main__":
    main()
