"""The part of README.md that hubs of models ask for: YAML in front, training, data, figures, and lines to try."""

from typing import Any

from model.config import MultiwayConfig

FRONT = """\
---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- beit3
- multimodal
- image-text
- custom_code
# license: choose one before you publish the weights; it depends on the data that they were trained with
---
"""
DUAL = """\
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(".", trust_remote_code=True).eval()
{processor}
images = [Image.new("RGB", (320, 240), color) for color in ("red", "blue")]
with torch.no_grad():
    image_features = model.get_image_features({pixels})  # (2, {dim}), of length 1
{texts}"""
DUAL_TEXTS = """\
    text_features = model.get_text_features(**processor(text=["a red square", "a blue square"]))
    logits = model.similarity(image_features, text_features)  # images x texts"""
MASKED = """\
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(".", trust_remote_code=True).eval()
{processor}
image = Image.new("RGB", (320, 240), "red")
with torch.no_grad():
    of_image = model({pixels}).last_hidden_state  # (1, {num_image_tokens}, {dim})
{texts}"""
MASKED_TEXTS = """\
    of_text = model(**processor(text="a red square")).last_hidden_state
    pair = model(**processor(images=image, text="a <mask> square"))
    words = model.mlm_head(pair.text_hidden_state)  # logits of every word, the masked one too
    caption = processor.decode(model.caption({pixels})[0], skip_special_tokens=True)"""


def front_matter(card: dict[str, Any]) -> str:
    """Return the YAML with which README.md begins."""
    pipeline = "zero-shot-image-classification" if _is_dual(card) else "feature-extraction"
    return FRONT.format(pipeline=pipeline)


def python_lines(card: dict[str, Any]) -> str:
    """Return lines that load the folder from within, and use it."""
    config = MultiwayConfig(**card["model"])
    has_texts = card["text_tokenizer"] is not None
    loaded = "AutoProcessor" if has_texts else "AutoImageProcessor"
    lines, texts = (DUAL, DUAL_TEXTS) if _is_dual(card) else (MASKED, MASKED_TEXTS)
    pixels = f"**processor(images={'images' if _is_dual(card) else 'image'})"
    return (
        lines.format(
            processor=f'processor = {loaded}.from_pretrained(".", trust_remote_code=True)',
            pixels=pixels,
            texts=texts if has_texts else "",
            num_image_tokens=config.num_image_tokens,
            dim=config.dim,
        )
        .replace("{pixels}", pixels)
        .replace("AutoProcessor", loaded)
        .rstrip()
    )


def notes(card: dict[str, Any]) -> list[str]:
    """Return paragraphs on the code, the network, its training data, steps and figures."""
    code = ", ".join(card["code"])
    lines = [
        f"trust_remote_code=True executes the code in this folder ({code}): read it before you do.\n",
        _network(card),
    ]
    if isinstance(card.get("config"), dict):
        lines.append(_training(card["config"]))
    if card.get("figures"):
        lines.append(_figures(card))
    return lines


def _is_dual(card: dict[str, Any]) -> bool:
    return card["heads"] is not None


def _network(card: dict[str, Any]) -> str:
    config = MultiwayConfig(**card["model"])
    heads = [
        "projections of images and texts into one space" if _is_dual(card) else "",
        "heads for masked words and patches" if not _is_dual(card) or card["heads"]["masked_data"] else "",
    ]
    return (
        f"A BEiT-3 of {card['num_parameters']:,} parameters: {config.depth} blocks of width {config.dim} with "
        f"{config.attention} attention, {config.num_vl_layers} of them with a vision-language expert; images of "
        f"{config.image_size} px in patches of {config.patch_size} px; {' and '.join(filter(None, heads))}.\n"
    )


def _training(config: dict[str, Any]) -> str:
    """Return what a run trained on. config: as RUN/config.json has it."""
    data = config["data"]
    kinds = [("images", "images_per_step"), ("pairs", "pairs_per_step"), ("texts", "texts_per_step")]
    rows = [
        f"| {kind} | {', '.join(map(str, data.get(kind) or []))} | {config[number]} |"
        for kind, number in kinds
        if config.get(number)
    ]
    table = "\n".join(["| trained on | shards | samples per step |", "| --- | --- | --- |", *rows])
    began = f"It began with the weights of {config['initial_weights']}. " if config.get("initial_weights") else ""
    planned = f"The settings of the run have {config['num_steps']} steps. {began}card.json has all of its settings."
    return f"{table}\n\n{planned}\n"


def _figures(card: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {'not finite' if value is None else f'{value:.4g}'} |" for name, value in card["figures"].items()
    ]
    size = f", images of {card['config']['model']['image_size']} px" if "image_size" in card else ""
    title = f"| on held-out data, step {card['step']}{size} | |"
    explained = "docs/glossary.md of Imglish explains the figures."
    if any(name.startswith("retrieval/") for name in card["figures"]) and isinstance(card.get("config"), dict):
        number = card["config"].get("evaluation", {}).get("num_samples")
        explained = f"Recall is among the images and captions of at most {number} held-out pairs. {explained}"
    return "\n".join([title, "| --- | --- |", *rows]) + f"\n\n{explained}\n"
