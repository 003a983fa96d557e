"""Train a visual tokenizer (VQ-KD): deepspeed --module pretrain.train_visual_tokenizer RECIPE [overrides]

The encoder and the decoder learn by gradients to reconstruct a teacher's features from codes, the codebook by moving
averages. The loop around `train_step`, and the exit codes, are in pretrain/run/loop.py.
"""

from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from model.quantizer import Codebook
from model.visual_tokenizer import Block, VisualTokenizer, init_visual_tokenizer
from pretrain.checkpoints.weights import checkpoint_weights
from pretrain.config.command_line import parse_recipe
from pretrain.config.visual_tokenizer import VisualTokenizerRun
from pretrain.engine.machine_memory import check_batch_fits, check_network_fits
from pretrain.formats.vqkd import save_vqkd
from pretrain.jobs.codebook_step import LIVE_STEPS, CodebookUse, start_codebook, update_codebook
from pretrain.jobs.teachers import Teacher, check_teacher, load_teacher
from pretrain.jobs.visual_tokens import tokenizer_view
from pretrain.recipes import VISUAL_TOKENIZER_RECIPES
from pretrain.run.loop import Job, open_dataset, run_job
from pretrain.survival.agreement import mean_over_ranks
from pretrain.survival.console import say, warn

COLLAPSED_SHARE = 0.5
"""A run with a smaller share of live codes says so."""


def main() -> None:
    run_job(VisualTokenizerTraining, parse_recipe(VISUAL_TOKENIZER_RECIPES, "pretrain.train_visual_tokenizer"))


class VisualTokenizerTraining(Job[VisualTokenizerRun]):
    """VQ-KD: 1 - cosine similarity of the reconstruction with the teacher + commitment loss."""

    leaf_modules = (Block,)
    undecayed = ("cls_token", "pos_embed")
    bfloat16_weights = False  # as published: matrix products by autocast, the layer before the codebook in float32

    teacher: Teacher
    has_warned = False

    def prepare(self, rank: int, world_size: int) -> StepDataset:
        config, model = self.config, self.config.model
        check_network_fits(lambda: VisualTokenizer(model))
        check_batch_fits(config.samples_per_step, max(model.image_size, self.teacher_size), 0, world_size)
        self.teacher = load_teacher(config.teacher, model.patch_size, self.device)
        check_teacher(self.teacher, self.teacher_size, model.grid_size, model.teacher_dim, self.device)
        num_features = config.images_per_step * model.grid_size**2
        if config.codebook.kmeans_start and num_features < model.num_codes:
            raise ValueError(
                f"a step of {config.images_per_step} images has {num_features} patches for {model.num_codes} codes; "
                "k-means needs one for each: raise images_per_step or lower model.num_codes"
            )
        if rank == 0:
            is_new = not any((config.run_dir / "checkpoints").glob("step_*"))
            check_out(config.out, is_new)
        return open_dataset(config, max(model.image_size, self.teacher_size), rank, world_size)

    @property
    def teacher_size(self) -> int:
        """Side of the teacher's view in pixels."""
        return self.config.teacher.image_size or self.config.model.image_size

    def files(self, config: VisualTokenizerRun) -> dict[str, Path | None]:
        return {"teacher": config.teacher.weights}

    def build_model(self, is_new: bool) -> nn.Module:
        config = self.config
        tokenizer = VisualTokenizer(config.model)
        init_visual_tokenizer(tokenizer, config.init_std, config.seed)
        if not config.codebook.kmeans_start:
            num_features = config.images_per_step * config.model.grid_size**2
            tokenizer.codebook.start_randomly(num_features, torch.Generator().manual_seed(config.seed))
        return tokenizer.to(self.device)

    def train_step(self, engine: deepspeed.DeepSpeedEngine, batch: StepBatch) -> dict[str, Any]:
        config = self.config
        codebook: Codebook = engine.module.codebook
        micro_batches = [self.views(part) for part in batch.micro_batches(config.gradient_accumulation_steps)]
        if batch.step == 0 and config.codebook.kmeans_start:
            with torch.no_grad():
                features = [engine(*views, config.dtype)[2] for views in micro_batches]
            start_codebook(codebook, torch.cat(features).flatten(0, 1), config.seed)

        features, parts, factor = [], [], torch.ones((), device=self.device)
        skipped_before = engine.skipped_steps
        for number, views in enumerate(micro_batches, start=1):
            self.watchdog.at("forward")
            similarity, commitment_loss, micro_features = engine(*views, config.dtype)
            features.append(micro_features)
            parts.append(torch.stack([similarity.detach(), commitment_loss.detach()]))
            if number == len(micro_batches):
                means = mean_over_ranks(torch.stack(parts).mean(0))
                factor = self.guard.factor(1 - means[0] + means[1])
            self.watchdog.at("backward")
            # means over equal parts: DeepSpeed averages them
            engine.backward((1 - similarity + commitment_loss) * factor)
            self.watchdog.at("optimizer")
            engine.step()  # acts on the last micro-step; on a gradient that is not finite, no rank does
        cosine, commitment = means.tolist()
        record = {"loss": 1 - cosine + commitment, "losses": {"cosine": cosine, "commitment": commitment}}
        if engine.skipped_steps == skipped_before:  # features of a skipped step may not be finite
            use = update_codebook(
                codebook,
                torch.cat(features).flatten(0, 1),
                config.codebook.decay,
                config.codebook.revival_threshold,
                config.seed,
                batch.step,
            )
            self.warn_of_collapse(batch.step, use)
            record["codebook"] = vars(use)
        return record

    def views(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """The tokenizer's pixels (B, 3, H, W) and the teacher's features (B, G * G, E)."""
        view = tokenizer_view(batch.images, self.teacher_size)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, self.config.dtype == torch.bfloat16):
            features = self.teacher(view)
        return tokenizer_view(batch.images, self.config.model.image_size), features.float()

    def warn_of_collapse(self, step: int, use: CodebookUse) -> None:
        """Say it when most codes are dead, once each time it comes to that."""
        has_collapsed = step >= LIVE_STEPS and use.live_share < COLLAPSED_SHARE
        if has_collapsed and not self.has_warned and torch.distributed.get_rank() == 0:
            settings = self.config.codebook
            is_on = settings.kmeans_start and settings.revival_threshold > 0
            remedy = "a smaller codebook.decay or model.num_codes" if is_on else "kmeans_start and revival_threshold"
            warn(
                f"warning: the codebook has collapsed: {use.live_share:.1%} of {self.config.model.num_codes} codes "
                f"were used in the last {LIVE_STEPS} steps, perplexity {use.perplexity:.1f}; try {remedy}"
            )
        self.has_warned = has_collapsed

    def publish(self, checkpoint: Path) -> None:
        tokenizer = VisualTokenizer(self.config.model)
        tokenizer.load_state_dict(dict(checkpoint_weights(checkpoint)))
        save_vqkd(tokenizer, self.config.out)
        say(f"{self.config.out}: {checkpoint.name}")


def check_out(out: Path, is_new: bool) -> None:
    """Make the folder of a file and try to write into it. is_new: the run begins, so a file there is another run's.

    Raises OSError or ValueError where it cannot be written or would be written over.
    """
    if out.is_dir():
        raise ValueError(f"out {out} is a folder; give a file, such as {out / 'visual_tokenizer.pt'}")
    if is_new and out.exists():
        raise ValueError(f"out {out} is there already, from another run; give another --out, or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        trial = out.with_name(out.name + ".trial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(f"out {out} cannot be written ({error.strerror}); free space or choose another") from error


if __name__ == "__main__":
    main()
