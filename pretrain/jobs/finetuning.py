"""The job of finetuning: a pretrained network and the head of a task, on the samples of that task.

Tasks, inputs and losses are those of Microsoft's finetuning code; what differs is that a run depends on no topology,
see task_steps.py for the losses of captions and mixing.py for mixtures.
"""

from pathlib import Path

import deepspeed
import torch.distributed as dist
from torch import nn

from data_pipeline.loading.task_batch import TaskBatch
from data_pipeline.loading.task_config import label_file
from data_pipeline.loading.task_dataset import TaskDataset
from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME
from data_pipeline.samples.tasks import TASK_KINDS
from data_pipeline.texts.tokenizer import TextTokenizer
from model.flash_attention import activate_flash_attention
from model.flops import StepSize, training_flops
from model.initialization import init_weights
from model.kernels.backend import choose_backend
from model.networks import build_network
from model.objective import num_masked
from model.trained_parameters import is_trained
from pretrain.checkpoints.initial_weights import (
    FINAL_NORM,
    HEADS,
    LABEL_ROWS,
    InitialWeights,
    check_initial_weights,
    labels_there,
    load_initial_weights,
    weights_file,
    weights_of_new_run,
)
from pretrain.checkpoints.reader import TEXT_TOKENIZER_NAME
from pretrain.config.finetune import LABEL_LISTS, FinetuneConfig
from pretrain.engine.machine_memory import check_batch_fits, check_network_fits
from pretrain.jobs.contrast import layer_of
from pretrain.jobs.job import Job, Step, StepWork, ranks_per_node
from pretrain.jobs.pretraining import Pretraining, check_vocabulary, part_of_block
from pretrain.jobs.task_micro_step import make_task_micro_step
from pretrain.jobs.task_steps import CaptionStep, LabelStep
from pretrain.survival.console import say

HEAD = "head."
"""Beginning of the names of parameters that head_lr_factor is for, as in Microsoft's code: no pooler, no norm."""


class Finetuning(Job[FinetuneConfig]):
    """One task: answers to questions, statements on two images, captions, or classes of images."""

    leaf_modules = Pretraining.leaf_modules
    undecayed = Pretraining.undecayed
    bfloat16_weights = True
    progress_fields = ("losses", "task")

    text_tokenizer: TextTokenizer | None = None
    """None for classify."""
    initial_weights: InitialWeights | None = None
    labels_there: list[str] | None = None
    """Answers or classes of the initial weights; None if they have none, or no list lies beside them."""
    labels: list[str] | None = None
    """Answers or classes of the run; None for a task without."""
    attention: str
    """The attention that torch runs, for the log."""

    def prepare(self, rank: int, world_size: int) -> TaskDataset:
        config, network = self.config, self.config.model
        self.initial_weights = weights_of_new_run(config)  # a mistake in their path comes before those of the data
        choose_backend(config.kernels, self.device)
        self.attention = activate_flash_attention(config.flash_attention, self.device)
        check_network_fits(lambda: build_network(network, config.heads))
        text_ids = config.task_samples_per_step * config.data.text_length * config.has_text
        check_batch_fits(config.samples_per_step, network.image_size, text_ids, world_size, config.images_per_sample)
        config.micro_batch(world_size)  # raises if images to be mixed would have no partner
        dataset = TaskDataset(
            config.data,
            config.task,
            config.task_samples_per_step,
            network.image_size,
            config.seed,
            rank,
            world_size,
            ranks_per_node(world_size),
        )
        self.text_tokenizer = dataset.tokenizer
        if self.text_tokenizer is not None:
            check_vocabulary(self.text_tokenizer, network)
        self.labels = dataset.labels.names
        check_labels(config, dataset.labels.num_labels)
        if self.initial_weights is not None:
            words = config.data.text_tokenizer if config.has_text else None
            check_initial_weights(self.initial_weights, network, words, {"image_size", "num_visual_tokens"})
            self.labels_there = labels_there(self.initial_weights, TASK_KINDS[config.task])
        return dataset

    def files(self, config: FinetuneConfig) -> dict[str, Path | None]:
        found: dict[str, Path | None] = {}
        if config.has_text:
            found["text tokenizer"] = config.data.text_tokenizer
        if (name := LABEL_LISTS.get(config.task)) is not None:
            found[name] = label_file(config.data, config.task)
        if self.initial_weights is not None:
            found["initial weights"] = weights_file(self.initial_weights.folder)
        return found

    def build_model(self, is_new: bool) -> nn.Module:
        config = self.config
        model = build_network(config.model, config.heads, config.kernels, config.activation_checkpointing)
        init_weights(model, config.model, config.seed)
        if self.initial_weights is not None and is_new:
            # rows of a head that was trained for other answers would be taken for the run's, in silence
            others = LABEL_ROWS if self.labels_there not in (None, self.labels) else ()
            missing = load_initial_weights(self.initial_weights, model, (*HEADS, FINAL_NORM), left_out=others)
            if dist.get_rank() == 0:
                say_start(self.initial_weights.folder, missing, self._unnamed_labels(missing))
        return model

    def _unnamed_labels(self, missing: list[str]) -> Path | None:
        """Return the run's list of labels if the initial weights have rows for as many, but no list that names them."""
        if self.labels is None or self.labels_there is not None or any(name.startswith(LABEL_ROWS) for name in missing):
            return None
        return label_file(self.config.data, self.config.task)

    def start_step(self, engine: deepspeed.DeepSpeedEngine, batch: TaskBatch) -> Step:
        config = self.config
        micro_steps = [
            make_task_micro_step(config, part, self.text_tokenizer)
            for part in batch.micro_batches(config.gradient_accumulation_steps)
        ]
        if config.task == "caption":
            drop = config.drop_worst_share if config.drops_worst(batch.step) else 0.0
            return CaptionStep(engine, micro_steps, drop)
        return LabelStep(config.task, micro_steps, config.mixing.is_on)

    def lr_scale(self, name: str) -> float:
        config = self.config
        if not is_trained(name, config.model, config.heads):
            return 0.0
        depth = config.model.depth
        scale = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        return scale * config.head_lr_factor if name.startswith(HEAD) else scale

    def part_of(self, name: str) -> str:
        return part_of_block(name)

    def checkpoint_files(self) -> dict[str, bytes]:
        config, files = self.config, dict[str, bytes]()
        if config.has_text:
            assert config.data.text_tokenizer is not None
            files[TEXT_TOKENIZER_NAME] = config.data.text_tokenizer.read_bytes()
        if (path := label_file(config.data, config.task)) is not None:
            files[ANSWERS_NAME if config.task == "vqa" else CLASSES_NAME] = path.read_bytes()
        return files

    def describe(self) -> list[str]:
        config = self.config
        labels = f" with {config.num_classes} labels" if config.num_classes is not None else ""
        texts = f", texts of up to {config.data.text_length} tokens" if config.has_text else ""
        size = f"{config.model.image_size} px"
        return [
            f"kernels: {choose_backend(config.kernels, self.device)}; attention: {self.attention}",
            f"task: {config.task}{labels}, {config.task_samples_per_step} samples a step, images of {size}{texts}",
        ]

    def work(self, batch: TaskBatch) -> StepWork:
        return task_work(self.config, len(batch.images), batch.text_lengths)


def say_start(folder: Path, missing: list[str], unnamed: Path | None) -> None:
    """Print where a run starts from. unnamed: list of labels that the head is taken to have, if nothing says so."""
    new = f"; initialized, as they lack it or have it for other labels: {', '.join(missing)}" if missing else ""
    say(f"starts from the weights in {folder}{new}")
    if unnamed is not None:
        say(f"warning: no list of labels lies beside {folder}; the head is taken for that of {unnamed}, in its order")


def check_labels(config: FinetuneConfig, num_labels: int) -> None:
    """Raise ValueError if the list of labels has another length than the network's head."""
    if config.num_classes is not None and num_labels != config.num_classes:
        raise ValueError(
            f"{label_file(config.data, config.task)} has {num_labels} {LABEL_LISTS[config.task]}, num_classes is "
            f"{config.num_classes}; set --num-classes {num_labels}, or give other --data.shards"
        )


def task_work(config: FinetuneConfig, num_samples: int, text_lengths: tuple[int, ...]) -> StepWork:
    """Return the work of a part of a step; text_lengths: in tokens, one per sample, none for classify."""
    model, num_masked_words = config.model, 0
    if config.task == "caption":
        num_masked_words = sum(num_masked(text_lengths, config.mask_ratio))
    num_images = 0 if config.has_text else num_samples
    step = StepSize(num_images, text_lengths * config.images_per_sample, (), 0, num_masked_words)
    return StepWork(step.num_tokens(model), training_flops(model, step) + 3 * num_samples * head_flops(config))


def head_flops(config: FinetuneConfig) -> int:
    """Return the operations of a forward of the head on one sample; 0 for captions, whose words count by themselves."""
    dim, labels = config.model.dim, config.num_classes or 0
    weights = {
        "vqa": 3 * dim**2 + 2 * dim * labels,
        "nlvr2": 8 * dim**2 + 4 * dim,
        "caption": 0,
        "classify": dim * labels,
    }
    return 2 * weights[config.task]
