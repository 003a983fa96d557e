"""The job that trains a visual tokenizer (VQ-KD, BEiT v2, arXiv 2208.06366).

The encoder and the decoder learn by gradients to reconstruct a teacher's features from codes, the codebook by moving
averages. Shapes: B images, G patches along a side, E teacher dim, d code dim.
"""

from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from model.quantizer import Codebook
from model.stacked_vectors import NOTHING_STACKED
from model.visual_tokenizer import Block, VisualTokenizer, init_visual_tokenizer
from pretrain.checkpoints.weights import saved_weights
from pretrain.config.visual_tokenizer import VisualTokenizerRun
from pretrain.engine.machine_memory import check_batch_fits, check_network_fits
from pretrain.formats.vqkd import save_vqkd
from pretrain.jobs.codebook_step import LIVE_STEPS, start_codebook, update_codebook
from pretrain.jobs.job import Job, Step, StepLoss, open_dataset
from pretrain.jobs.teachers import Teacher, check_teacher, load_teacher
from pretrain.jobs.visual_tokens import tokenizer_view
from pretrain.survival.agreement import mean_over_ranks
from pretrain.survival.console import say, warn

COLLAPSED_SHARE = 0.5
"""Share of live codes below which a run warns of a collapsed codebook."""

Views = tuple[Tensor, Tensor]
"""The tokenizer's pixels (B, 3, H, W) and the teacher's features (B, G * G, E)."""


class VisualTokenizerTraining(Job[VisualTokenizerRun]):
    """VQ-KD: 1 - cosine similarity of the reconstruction with the teacher + commitment loss."""

    leaf_modules = (Block,)
    undecayed = ("cls_token", "pos_embed")
    bfloat16_weights = False  # as published: matrix products by autocast, the layer before the codebook in float32
    progress_fields = ("losses", "codebook")

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

    def prepare_files(self) -> None:
        check_writable(self.config.out)

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

    def start_step(self, engine: deepspeed.DeepSpeedEngine, batch: StepBatch) -> Step:
        micro_steps = [self.views(part.images) for part in batch.micro_batches(self.config.gradient_accumulation_steps)]
        if batch.step == 0 and self.config.codebook.kmeans_start:
            with torch.no_grad():
                features = [engine(*views, self.config.dtype)[2] for views in micro_steps]
            start_codebook(engine.module.codebook, torch.cat(features).flatten(0, 1), self.config.seed)
        return TokenizerStep(self.config, batch.step, micro_steps)

    def part_of(self, name: str) -> str:
        return name.partition(".")[0]

    def views(self, images: Tensor) -> Views:
        """Return what (B, 3, S, S) uint8 images are trained on; the teacher runs here, without gradients."""
        view = tokenizer_view(images, self.teacher_size)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, self.config.dtype == torch.bfloat16):
            features = self.teacher(view)
        return tokenizer_view(images, self.config.model.image_size), features.float()

    def check_record(self, record: dict[str, Any]) -> None:
        """Warn if most codes are dead, once each time it comes to that."""
        if (use := record.get("codebook")) is None:  # a skipped step
            return
        has_collapsed = record["step"] >= LIVE_STEPS and use["live_share"] < COLLAPSED_SHARE
        if has_collapsed and not self.has_warned:
            settings = self.config.codebook
            is_on = settings.kmeans_start and settings.revival_threshold > 0
            remedy = "a smaller codebook.decay or model.num_codes" if is_on else "kmeans_start and revival_threshold"
            warn(
                f"warning: the codebook has collapsed: {use['live_share']:.1%} of {self.config.model.num_codes} codes "
                f"were used in the last {LIVE_STEPS} steps, perplexity {use['perplexity']:.1f}; try {remedy}"
            )
        self.has_warned = has_collapsed

    def publish(self, checkpoint: Path) -> None:
        tokenizer = VisualTokenizer(self.config.model)
        tokenizer.load_state_dict(dict(saved_weights(checkpoint, NOTHING_STACKED)))
        save_vqkd(tokenizer, self.config.out)
        say(f"{self.config.out}: {checkpoint.name}")


class TokenizerStep(Step):
    """Reconstruction and commitment, then the codebook's own update from the features of all micro-steps."""

    def __init__(self, config: VisualTokenizerRun, step: int, micro_steps: list[Views]):
        self.config, self.step, self.micro_steps = config, step, micro_steps
        self.features: list[Tensor] = []

    def forward(self, engine: deepspeed.DeepSpeedEngine, micro_step: Views) -> tuple[Tensor, Tensor]:
        similarity, commitment_loss, features = engine(*micro_step, self.config.dtype)
        self.features.append(features)
        # means over equal parts of the global batch: DeepSpeed's average over them is the mean of the whole
        return 1 - similarity + commitment_loss, torch.stack([similarity.detach(), commitment_loss.detach()])

    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        cosine, commitment = mean_over_ranks(torch.stack(metrics).mean(0)).double().unbind()
        return StepLoss(1 - cosine + commitment, {"cosine": cosine, "commitment": commitment})

    def after_update(self, engine: deepspeed.DeepSpeedEngine, is_applied: bool) -> dict[str, Any]:
        if not is_applied:
            return {}  # features of a skipped step may not be finite, and a codebook never forgets a NaN
        codebook: Codebook = engine.module.codebook
        settings, features = self.config.codebook, torch.cat(self.features).flatten(0, 1)
        use = update_codebook(
            codebook, features, settings.decay, settings.revival_threshold, self.config.seed, self.step
        )
        return {"codebook": use}


def check_out(out: Path, is_new: bool) -> None:
    """Raise ValueError if a file would be overwritten, or is a folder.

    is_new: the run starts, so a file there is another run's.
    """
    if out.is_dir():
        raise ValueError(f"out {out} is a folder; give a file, such as {out / 'visual_tokenizer.pt'}")
    if is_new and out.exists():
        raise ValueError(f"out {out} is there already, from another run; give another --out, or delete it")


def check_writable(out: Path) -> None:
    """Make the folder of a file and try to write into it. Raises OSError if that fails."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        trial = out.with_name(out.name + ".trial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(f"out {out} cannot be written ({error.strerror}); free space or choose another") from error
