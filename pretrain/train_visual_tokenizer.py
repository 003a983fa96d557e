"""Train a visual tokenizer: python -m pretrain.train_visual_tokenizer RECIPE [overrides]

VQ-KD on one process: the codebook learns from the encoder's features, encoder and decoder from reconstructing the
teacher, which here is the pixels of each patch.
"""

import sys
import time

import torch
from torch import nn

from data_pipeline.command_line import EXIT_USER_ERROR
from data_pipeline.step_dataset import SamplesPerStep, StepDataset
from data_pipeline.step_loader import step_batches
from model.visual_tokenizer import VisualTokenizer, patch_pixels
from pretrain.command_line import parse_recipe
from pretrain.recipes import VISUAL_TOKENIZER_RECIPES
from pretrain.visual_tokenizer_config import VisualTokenizerRun
from pretrain.visual_tokens import save_visual_tokenizer, tokenizer_view

PROGRESS_SECONDS = 5.0


def main() -> None:
    run = parse_recipe(VISUAL_TOKENIZER_RECIPES, "pretrain.train_visual_tokenizer")
    try:
        tokenizer = train_visual_tokenizer(run)
        run.out.parent.mkdir(parents=True, exist_ok=True)
        save_visual_tokenizer(tokenizer, run.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(f"{run.out}: {run.model.num_codes} codes for {run.model.grid_size} x {run.model.grid_size} patches")


def train_visual_tokenizer(run: VisualTokenizerRun) -> VisualTokenizer:
    """Train on one device. Raises ValueError for data or sizes that do not fit."""
    patch_dim = 3 * run.model.patch_size**2
    if run.model.teacher_dim != patch_dim:
        raise ValueError(f"model.teacher_dim {run.model.teacher_dim} must be {patch_dim}, the pixels of a patch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    tokenizer = VisualTokenizer(run.model).to(device)
    optimizer = torch.optim.AdamW(
        tokenizer.parameters(), lr=run.lr, betas=(run.beta1, run.beta2), weight_decay=run.weight_decay
    )
    dataset = StepDataset(run.data, SamplesPerStep(run.images_per_step, 0, 0), run.model.image_size, run.seed)
    last_progress = 0.0
    for batch in step_batches(dataset, 0, run.num_steps, run.data.num_workers):
        if batch.failure:
            raise ValueError(f"the data of step {batch.step} cannot be read: {batch.failure}")
        for group in optimizer.param_groups:
            group["lr"] = run.lr * min(1.0, (batch.step + 1) / run.warmup_steps)
        pixels = tokenizer_view(batch.images.to(device), run.model.image_size)
        features = tokenizer.features(pixels)
        tokenizer.codebook.update(features.detach().flatten(0, 1), generator)
        ids, reconstruction, commitment_loss = tokenizer(features)
        teacher = patch_pixels(pixels, run.model.patch_size)
        cosine = nn.functional.cosine_similarity(reconstruction, teacher, dim=-1).mean()
        optimizer.zero_grad()
        (commitment_loss + 1 - cosine).backward()
        optimizer.step()
        if time.monotonic() - last_progress > PROGRESS_SECONDS or batch.step == run.num_steps - 1:
            last_progress = time.monotonic()
            print(
                f"step {batch.step + 1}/{run.num_steps}  cosine {cosine.item():.3f}  "
                f"commitment {commitment_loss.item():.5f}  codes used {len(ids.unique())}/{run.model.num_codes}",
                flush=True,
            )
    return tokenizer


if __name__ == "__main__":
    main()
