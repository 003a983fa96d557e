"""Shards, tokenizers and command-line overrides for runs of a few steps."""

from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.samples.scenes import draw_samples
from data_pipeline.texts.sentencepiece_training import train_text_tokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from model.visual_tokenizer import VisualTokenizer, init_visual_tokenizer
from pretrain.formats.vqkd import save_vqkd
from pretrain.recipes.small import demo_visual_tokenizer
from tests.support.launch import ROOT

TEXT_LENGTH = 24
VOCAB_SIZE = 100


@dataclass(frozen=True)
class TinyData:
    """A folder with all data of a run."""

    folder: Path

    def overrides(self, run_dir: Path) -> list[str]:
        """Return arguments after a recipe's name for a run of eight steps on this data."""
        values = {
            "data.images": self.folder / "images",
            "data.pairs": self.folder / "pairs",
            "data.texts": self.folder / "texts",
            "data.text-tokenizer": self.folder / "text_tokenizer.spm",
            "data.text-length": TEXT_LENGTH,
            "data.color-jitter": 0.4,
            "visual-tokenizer": self.folder / "visual_tokenizer.pt",
            "run-dir": run_dir,
            "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
            "model.dim": 48,
            "model.ffn-dim": 64,
            "model.drop-path-rate": 0.2,
            "num-steps": 8,
            "images-per-step": 4,
            "pairs-per-step": 4,
            "texts-per-step": 4,
            "optimizer.warmup-steps": 2,
            "save-every-steps": 100,
            "monitors.tensorboard": "off",
            "monitors.norms-every-steps": 0,
            "evaluation.every-steps": 0,
        }
        return [str(word) for name, value in values.items() for word in (f"--{name}", value)] + ["--log-sample-keys"]


def write_tiny_data(folder: Path) -> TinyData:
    """Write forty images, forty pairs, a few passages on drawn scenes, and an untrained visual tokenizer."""
    tokenizer = train_text_tokenizer(
        (sample.text or "" for sample in draw_samples("text", 500)), folder / "text_tokenizer.spm", VOCAB_SIZE, "bpe"
    )
    write_shards(ShardOptions("image", "scenes:40", folder / "images", samples_per_shard=9))
    write_shards(ShardOptions("pair", "scenes:40", folder / "pairs", samples_per_shard=9))
    write_shards(
        ShardOptions("text", "scenes:80", folder / "texts", 9, text_tokenizer=tokenizer.path, text_length=TEXT_LENGTH)
    )
    recipe = demo_visual_tokenizer()
    visual_tokenizer = VisualTokenizer(recipe.model)
    init_visual_tokenizer(visual_tokenizer, recipe.init_std, seed=0)
    pixels = torch.rand(16, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    visual_tokenizer.codebook.start(visual_tokenizer.features(pixels).detach().flatten(0, 1))
    save_vqkd(visual_tokenizer, folder / "visual_tokenizer.pt")
    return TinyData(folder)
