"""Evaluate a finetuned network of a run, a checkpoint, an exported folder or Microsoft's file."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, read_answers, read_classes
from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import ClassHead, TaskHead, VqaHead
from model.flash_attention import activate_flash_attention
from model.networks import TaskNetworks
from model.pretrained import WEIGHTS_NAME
from model.task_networks import TaskNetwork
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.run_config import config_from_json
from pretrain.conversion.model_card import read_card
from pretrain.conversion.opened import Opened, open_network
from pretrain.conversion.target import CARD_NAME
from pretrain.evaluation.evaluation import Figures
from pretrain.evaluation.finetuning import TaskEvaluation, writing_of
from pretrain.evaluation.launched import Launched
from pretrain.evaluation.options import EvaluateOptions
from pretrain.evaluation.result_files import check_results_path, write_results
from pretrain.evaluation.task_inputs import TaskInputs
from pretrain.evaluation.task_samples import open_held_out_task


@dataclass(frozen=True)
class Prepared:
    """A finetuned network on its device, and what is to be computed of it."""

    network: TaskNetworks
    evaluation: TaskEvaluation
    origin: str
    """Where the weights are from, in words."""


def evaluate_finetuned(options: EvaluateOptions, launched: Launched) -> tuple[str, Figures]:
    """Return a line on what was evaluated, and its figures, none for a test split. All ranks call it.

    Writes the results if options ask for them. Raises ValueError if the source, its lists or held-out data cannot be
    used.
    """
    is_main = launched.ranks.rank == 0
    found = launched.prepare(lambda: prepare(options, launched.device, check_shards=is_main))
    evaluated = found.evaluation.evaluate(found.network, launched.ranks)
    subject = f"{found.origin}; {found.evaluation.describe(evaluated)}"
    if options.results is not None:
        if is_main:
            write_results(options.results, found.evaluation.samples.task, evaluated.results)
        subject += f"; results of {len(evaluated.results)} in {options.results}"
    return subject, evaluated.figures if found.evaluation.samples.has_labels else {}


def prepare(options: EvaluateOptions, device: torch.device, check_shards: bool) -> Prepared:
    """Open the network and the held-out data. check_shards: as `read_index` has it. Raises ValueError, OSError."""
    config = run_config(options.source)
    data = TaskDataConfig() if config is None else config.data
    settings = options.applied_to(EvaluationConfig() if config is None else config.evaluation)
    held_out = options.held_out or data.held_out
    if held_out is None:
        raise ValueError(f"{options.source} names no held-out data; give --held-out")
    opened = open_network(options.source, options.weights)
    network, preprocessing = opened.network, opened.preprocessing
    assert isinstance(network, TaskNetwork)
    task = network.heads.TASK
    if options.results is not None:
        check_results_path(options.results, task)
    labels = TaskLabels(task, label_names(options, network.heads, held_out))
    tokenizer = None if task == "classify" else TextTokenizer(opened.need_tokenizer())
    samples = open_held_out_task(
        held_out,
        "--held-out" if options.held_out else "data.held_out",
        data,
        labels,
        tokenizer,
        preprocessing,
        # the accuracy of the first of many samples is another figure, so a given source is taken whole, and a server
        # refuses a file that lacks samples
        options.num_samples or (settings.num_samples if options.held_out is None and options.results is None else None),
        check_shards,
    )
    if not samples.has_labels and options.results is None:
        raise ValueError(f"{samples.folder} holds a test split, without answers to compare with; give --results")
    dtype = torch.float32 if config is None else config.dtype
    activate_flash_attention("auto" if config is None else config.flash_attention, device)
    writing = writing_of(settings, preprocessing.text_length) if task == "caption" else None
    inputs = inputs_of(opened, network.heads, dtype, device)
    evaluation = TaskEvaluation(samples, inputs, settings.chunk_size, tokenizer, writing)
    # the weights as training computes with them, so that the figures are those of the run
    return Prepared(network.to(device, dtype), evaluation, opened.origin)


def inputs_of(opened: Opened, heads: TaskHead, dtype: torch.dtype, device: torch.device) -> TaskInputs:
    """Return how samples become inputs of an opened network."""
    preprocessing, patch_size = opened.preprocessing, opened.network.encoder.config.patch_size
    return TaskInputs(heads.TASK, patch_size, dtype, device, preprocessing.mean, preprocessing.std)


def run_config(source: Path) -> FinetuneConfig | None:
    """Return the settings of the finetuning run that a source is from; None if it does not say."""
    source = resolve_best(source)
    if source.is_file():
        return None
    if not (source / WEIGHTS_NAME).is_file():
        return find_checkpoint(source, FinetuneConfig).config
    card = read_card(source / CARD_NAME) if (source / CARD_NAME).is_file() else {}
    if not isinstance(card.get("config"), dict):
        return None
    return config_from_json(FinetuneConfig, json.dumps(card["config"]))


def label_names(options: EvaluateOptions, heads: TaskHead, held_out: str) -> list[str] | None:
    """Return the answers or classes of a network, None if its task has no list.

    Raises ValueError if there is no list, or one of another length.
    """
    if isinstance(heads, VqaHead):
        given, name, read, num_labels = options.answers, ANSWERS_NAME, read_answers, heads.num_answers
    elif isinstance(heads, ClassHead):
        given, name, read, num_labels = options.classes, CLASSES_NAME, read_classes, heads.num_classes
    else:
        return None
    option = "--answers" if isinstance(heads, VqaHead) else "--classes"
    places = [given] if given is not None else [beside(options.source) / name]
    if given is None and isinstance(heads, ClassHead):  # in the order of their names, unless somebody chose another
        places.append(Path(held_out) / name)
    path = next((place for place in places if place.is_file()), places[0])
    if given is None and not path.is_file():
        folders = " or ".join(str(place.parent) for place in places)
        raise ValueError(f"there is no {name} in {folders}; give the list that it was trained with, with {option}")
    names = read(path)
    if len(names) != num_labels:
        raise ValueError(
            f"{path} has {len(names)} lines, and {options.source} chooses among {num_labels}; give the list that it "
            f"was trained with, with {option}"
        )
    return names


def beside(source: Path) -> Path:
    """Return the folder that holds the weights of a source."""
    source = resolve_best(source)
    if source.is_file():
        return source.parent
    return source if (source / WEIGHTS_NAME).is_file() else find_checkpoint(source).folder
