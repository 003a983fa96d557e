"""Small networks of tasks, and shards of questions that are written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, answer_lines, class_lines
from data_pipeline.samples.sample import Kind
from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import TaskHead
from model.initialization import init_weights
from model.networks import TaskNetworks
from model.task_networks import build_task_network
from tests.support.shard_files import GOOD, Member, index_folder, png, write_tar
from tests.support.tiny import CONFIG


def small_task_network(heads: TaskHead, tokenizer: TextTokenizer | None = None, seed: int = 0) -> TaskNetworks:
    """Return a network in which every parameter is random and large enough to matter.

    tokenizer: whose words it knows; None: 50 words.
    """
    vocab_size = CONFIG.vocab_size if tokenizer is None else tokenizer.vocab_size
    config = replace(CONFIG, vocab_size=vocab_size, max_text_length=24)
    network = build_task_network(config, heads)
    init_weights(network, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def write_by_hand(folder: Path, kind: Kind, annotations: list[dict[str, object]], labels: list[str] = []) -> Path:  # noqa: B006
    """Write one sample per annotation, each image of its own color, with the list of labels beside them."""
    members: list[Member] = []
    for number, annotation in enumerate(annotations):
        key = f"{number:03d}"
        members.append((f"{key}.png", png((20 * number % 256, 40, 60))))
        if kind == "nlvr2":
            members.append((f"{key}.image2.png", GOOD))
        if kind in ("vqa", "nlvr2"):
            members.append((f"{key}.txt", b"what is it"))
        members.append((f"{key}.json", json.dumps(annotation).encode()))
    write_tar(folder / "0.tar", members)
    if kind == "vqa":
        (folder / ANSWERS_NAME).write_text(answer_lines(labels))
    if kind == "label":
        (folder / CLASSES_NAME).write_text(class_lines(labels))
    index_folder(folder, kind)
    return folder
