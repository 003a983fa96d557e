"""One rank of small networks of tasks in finetuning steps, one case after the other:

    python -m tests.support.task_ranks CASES OUT

CASES is a JSON file of cases by name (`Case`). The main rank writes to OUT, by name, what torch.save takes: the log
record and the gradients of one step, or what ten steps did to the weights.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.loading.task_batch import TaskBatch
from data_pipeline.samples.tasks import Task
from data_pipeline.texts.tokenizer import PAD_ID, TextTokenizer
from model.config import MultiwayConfig
from model.networks import TaskNetworks
from model.task_networks import build_task_network
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.mixing import MixingConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.engine import build_engine, merged_deepspeed_config
from pretrain.jobs.finetuning import Finetuning
from pretrain.recipes import FINETUNE_RECIPES
from pretrain.survival.stop import end_process
from tests.support.step_ranks import MOVING, STILL, gradients_of, run_cases, take, weights_kept
from tests.support.task_networks import small_task_network
from tests.support.tiny import CONFIG

NUM_SAMPLES = 16
NUM_LABELS = 7
LENGTH = 10
DROP_PATH_RATE = 0.3
SMOOTHING = 0.1


@dataclass(frozen=True)
class Case:
    """A run of finetuning steps."""

    does: Literal["one step", "ten steps"]
    task: Task
    stage: int = 3
    num_micro_steps: int = 1
    drop_worst_share: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True)
class Words:
    """Stands for a text tokenizer: no step needs more of it."""

    mask_id: int = 3
    piece_ids: tuple[int, int] = (4, CONFIG.vocab_size)


def one_step(case: Case) -> dict[str, Any]:
    engine, job = built(case, STILL)
    return gradients_of(engine, lambda step: take_step(engine, job, step))


def ten_steps(case: Case) -> dict[str, Any]:
    engine, job = built(case, MOVING)
    return weights_kept(engine, lambda step: take_step(engine, job, step))


def built(case: Case, optimizer: OptimizerConfig) -> tuple[deepspeed.DeepSpeedEngine, Finetuning]:
    """Return an engine as a run builds it, and its job."""
    job = job_of(replace(config_of(case), optimizer=optimizer))
    memory_config = {"zero_optimization": {"stage": case.stage, "memory_efficient_linear": False}}
    merged = merged_deepspeed_config(job.config, memory_config, dist.get_world_size())
    network = network_of(job.config)
    return build_engine(network, job.config, merged, job.leaf_modules, job.undecayed, job.lr_scale), job


def config_of(case: Case) -> FinetuneConfig:
    """Return the settings of a case."""
    recipe, is_labelled = FINETUNE_RECIPES[f"{case.task}_laptop"](), case.task in ("vqa", "classify")
    return replace(
        recipe,
        model=model_config(),
        data=replace(recipe.data, text_length=LENGTH),
        task_samples_per_step=NUM_SAMPLES,
        num_classes=NUM_LABELS if is_labelled else None,
        gradient_accumulation_steps=case.num_micro_steps,
        label_smoothing=SMOOTHING if case.task in ("caption", "classify") else 0.0,
        drop_worst_share=case.drop_worst_share,
        mixing=MixingConfig(mixup=case.mixup),
    )


def model_config() -> MultiwayConfig:
    return replace(CONFIG, drop_path_rate=DROP_PATH_RATE)


def network_of(config: FinetuneConfig) -> TaskNetworks:
    """Return the network that every case of a task starts from."""
    network = build_task_network(config.model, config.heads)
    state = small_task_network(config.heads).state_dict()
    positions = "encoder.text_embed.pos_embed"
    state[positions] = state[positions][: len(network.state_dict()[positions])]
    network.load_state_dict(state)
    return network.train()


def job_of(config: FinetuneConfig) -> Finetuning:
    job = Finetuning(config, torch.device("cpu"))
    job.text_tokenizer = cast(TextTokenizer, Words())
    return job


def take_step(engine: deepspeed.DeepSpeedEngine, job: Finetuning, step: int) -> dict[str, Any]:
    """Take a step on this rank's part of a global batch; return the log record."""
    batch = global_batch(job.config, step).micro_batches(dist.get_world_size())[dist.get_rank()]
    return take(engine, job.start_step(engine, batch))


def global_batch(config: FinetuneConfig, step: int) -> TaskBatch:
    """Return a batch of random pixels, words and labels, the same for any number of ranks and micro-steps."""
    random, size, task = torch.Generator().manual_seed(step), config.model.image_size, config.task

    def images() -> Tensor:
        return torch.randint(256, (NUM_SAMPLES, 3, size, size), generator=random).byte()

    lengths = torch.randint(3, LENGTH + 1, (NUM_SAMPLES,), generator=random)
    ids = torch.randint(4, CONFIG.vocab_size, (NUM_SAMPLES, LENGTH), generator=random)
    ids = ids.masked_fill(torch.arange(LENGTH) >= lengths[:, None], PAD_ID)
    scores = torch.rand(NUM_SAMPLES, NUM_LABELS, generator=random)
    classes = torch.randint(2 if task == "nlvr2" else NUM_LABELS, (NUM_SAMPLES,), generator=random)
    return TaskBatch(
        step=step,
        sample_ids=torch.arange(NUM_SAMPLES) + step * NUM_SAMPLES,
        images=images(),
        second_images=images() if task == "nlvr2" else None,
        text_ids=None if task == "classify" else ids,
        text_lengths=() if task == "classify" else tuple(lengths.tolist()),
        targets={"vqa": scores, "caption": None}.get(task, classes),
        keys=[str(number) for number in range(NUM_SAMPLES)],
        bad_samples=[],
    )


if __name__ == "__main__":
    run_cases(Case, {"one step": one_step, "ten steps": ten_steps})
    end_process(0)
