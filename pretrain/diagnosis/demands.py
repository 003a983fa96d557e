"""Demands of a run on a machine, computed from its recipe: files, processes, memory, disk."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.loading.config import DataConfig
from data_pipeline.shards.reader import MAX_OPEN_SHARDS
from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.run_config import EncoderRunConfig, RunConfig
from pretrain.config.visual_tokenizer import VisualTokenizerRun

GPUS_PER_NODE = 8
OTHER_FILES = 512
"""Files and sockets that a rank holds besides shards."""
PREFETCHED = 2
"""Batches that each loader worker holds ready: torch's prefetch_factor."""
STATE_BYTES = 12
"""Bytes of a checkpoint per parameter: float32 weights and the two moments of AdamW."""
AVERAGE_BYTES = 4
"""Bytes more per parameter for the moving average of the weights."""
RANK_BYTES = 600_000_000
"""Host memory of a rank for Python, torch and DeepSpeed, without a GPU's libraries."""
GPUS = Path("/proc/driver/nvidia/gpus")
"""Folder of the NVIDIA driver with an entry per GPU, read without loading CUDA."""


@dataclass(frozen=True)
class Demands:
    """Demands of a run on one of its machines; the defaults are those of no recipe."""

    name: str = "a run"
    """Name of the recipe."""
    ranks: int = 1
    """Ranks of the whole run."""
    ranks_here: int = 1
    """Ranks of a machine."""
    num_workers: int = 0
    """Loader workers per rank."""
    num_sources: int = 0
    """Sources of shards."""
    memory: int = 0
    """Bytes of host memory at the start, and of the copy of a checkpoint that is being written."""
    shared: int = 0
    """Bytes of shared memory of the batches that workers hold ready."""
    checkpoint: int = 0
    """Bytes of a checkpoint."""
    num_checkpoints: int = 0
    """Checkpoints that are on disk at once, with the one that is being written."""

    @property
    def open_files(self) -> int:
        """Files that a process of a rank opens at once."""
        return OTHER_FILES + MAX_OPEN_SHARDS * max(1, self.num_sources)

    @property
    def disk(self) -> int:
        """Bytes of all checkpoints that are on disk at once."""
        return self.num_checkpoints * self.checkpoint


def demands_of(config: RunConfig, name: str, ranks: int | None = None) -> Demands:
    """Return the demands of a run.

    ranks: of the whole run; None: a node of 8, or as many of them as divide the batch. Raises ValueError if its
    DeepSpeed config cannot be used.
    """
    ranks = ranks or math.gcd(GPUS_PER_NODE, *vars(config.samples_per_step).values())
    ranks_here = min(ranks, num_gpus() or GPUS_PER_NODE)
    num_parameters = count_parameters(config)
    state = checkpoint_bytes(config)
    # every rank builds the float32 network, and keeps a copy of it while DeepSpeed rounds its own to bfloat16
    weights = 4 * num_parameters * (2 if config.precision == "bfloat16" else 1)
    return Demands(
        name=name,
        ranks=ranks,
        ranks_here=ranks_here,
        num_workers=config.data.num_workers,
        num_sources=sum(len(sources) for _, sources, _ in config.kinds),
        memory=ranks_here * (RANK_BYTES + weights) + state * ranks_here // ranks,
        shared=PREFETCHED * config.data.num_workers * batch_bytes(config) * ranks_here // ranks,
        checkpoint=state,
        num_checkpoints=num_checkpoints(config),
    )


def count_parameters(config: RunConfig) -> int:
    """Return the number of parameters that a run trains; nothing is allocated."""
    import torch  # here: the checks of the machine do not need it

    from model.networks import build_network
    from model.visual_tokenizer import VisualTokenizer

    with torch.device("meta"):
        if isinstance(config, EncoderRunConfig):
            network: torch.nn.Module = build_network(config.model, config.heads)
        else:
            assert isinstance(config, VisualTokenizerRun)
            network = VisualTokenizer(config.model)
    return sum(parameter.numel() for parameter in network.parameters())


def checkpoint_bytes(config: RunConfig) -> int:
    """Return the size of a checkpoint: the optimizer's state and, unless ZeRO-3 divides them, the weights.

    Raises ValueError for a DeepSpeed config that cannot be used.
    """
    from pretrain.engine.memory_config import read_memory_config

    stage = read_memory_config(config.deepspeed_config)["zero_optimization"].get("stage")
    weights = 0 if stage == 3 else 2 if config.precision == "bfloat16" else 4
    average = AVERAGE_BYTES if config.optimizer.ema_decay else 0
    return count_parameters(config) * (STATE_BYTES + average + weights)


def num_checkpoints(config: RunConfig) -> int:
    """Return how many checkpoints are on disk at once: those that are kept, and the one that is being written."""
    for_good = config.num_steps // config.keep_every_steps if config.keep_every_steps else 0
    best = 1 if config.evaluation.best is not None else 0
    return min(config.keep_checkpoints, -(-config.num_steps // config.save_every_steps)) + for_good + best + 1


def batch_bytes(config: RunConfig) -> int:
    """Return the size of a global batch as workers hand it over: uint8 pixels and int64 ids."""
    per_step, pixels = config.samples_per_step, 3 * image_side(config) ** 2
    if isinstance(config, FinetuneConfig):
        ids = config.data.text_length if config.has_text else 0
        return per_step.task_samples * (config.images_per_sample * pixels + 8 * ids)
    data = config.data
    assert isinstance(data, DataConfig)
    ids = per_step.pairs * data.caption_length + per_step.texts * data.text_length
    return pixels * (per_step.images + per_step.pairs) + 8 * ids


def image_side(config: RunConfig) -> int:
    """Return the side of a batch's images in pixels, with visual tokenizers of 16-pixel patches as BEiT v2's are."""
    if isinstance(config, FinetuneConfig) or (isinstance(config, ContrastConfig) and config.masked_data is None):
        return config.model.image_size
    if isinstance(config, EncoderRunConfig):
        return max(config.model.image_size, config.model.grid_size * 16)
    assert isinstance(config, VisualTokenizerRun)
    return max(config.model.image_size, config.teacher.image_size or 0)


def num_gpus() -> int:
    """Return the number of NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES does not hide."""
    found = len(list(GPUS.iterdir())) if GPUS.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return min(found, len([one for one in visible.split(",") if one.strip() and not one.strip().startswith("-")]))
