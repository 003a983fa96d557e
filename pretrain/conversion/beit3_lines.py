"""Python lines of README.md beside a file in Microsoft's format: torchscale's BEiT3, and the heads of the file."""

from pathlib import Path
from typing import Any

from model.config import TaskName
from model.pretrained import TASK_KEY
from pretrain.conversion.target import WITHOUT_TORCHVISION

CODE = (
    "# pip install timm; pip install --no-deps torchscale fairscale\n"
    + WITHOUT_TORCHVISION
    + """\
import json, torch
from torchscale.architecture.config import EncoderConfig
from torchscale.model.BEiT3 import BEiT3
model = BEiT3(EncoderConfig(**json.load(open("{card}"))["torchscale"])).eval()
weights = torch.load("{file}", weights_only=True)["model"]
model.load_state_dict({{name[6:]: value for name, value in weights.items() if name.startswith("beit3.")}})"""
)
FEATURES = """
def projected(states, head):
    return torch.nn.functional.normalize(states["encoder_out"][:, 0] @ weights[f"{head}.weight"].T, dim=-1)
def image_features(images):  # (B, 3, H, W) normalised pixels
    return projected(model(visual_tokens=images), "vision_head")
def text_features(ids, padding):  # (B, S) ids, and True or 1 at padding
    return projected(model(textual_tokens=ids, text_padding_position=padding), "language_head")"""
LAYERS = """
from torch.nn.functional import gelu, layer_norm, linear
def norm(x, name):
    return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])
def dense(x, name):
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
"""
PAIR_STATES = """\
def states(images, ids, padding):  # (B, 3, H, W) normalised pixels; (B, S) ids, and True or 1 at padding
    return model(visual_tokens=images, textual_tokens=ids, text_padding_position=padding)["encoder_out"]
"""
TASKS: dict[TaskName, str] = {
    "vqa": LAYERS
    + PAIR_STATES
    + """\
def logits(images, ids, padding):  # (B, answers), in the order of the list of answers
    pooled = dense(norm(states(images, ids, padding)[:, 0], "pooler.norm"), "pooler.dense").tanh()
    return dense(gelu(norm(dense(pooled, "head.0"), "head.1")), "head.3")""",
    "nlvr2": LAYERS
    + PAIR_STATES
    + """\
def tokens(images, ids, padding):  # (B, 2 D), the class token and <s>
    found = states(images, ids, padding)
    return torch.cat([found[:, 0], found[:, -ids.shape[1]]], dim=1)
def logits(images, second_images, ids, padding):  # (B, 2), of false and of true
    both = torch.cat([tokens(images, ids, padding), tokens(second_images, ids, padding)], dim=1)
    return dense(gelu(norm(dense(norm(both, "head.norm1"), "head.dense1"), "head.norm2")), "head.dense2")""",
    "caption": LAYERS
    + """\
def logits(images, ids, padding):  # (B, S, words) at each of (B, S) ids, of which the hidden ones are <mask>
    num_image_tokens = model.vision_embed.num_position_embeddings()
    unseen = torch.ones(num_image_tokens + ids.shape[1], num_image_tokens + ids.shape[1]).triu(1)
    unseen[:num_image_tokens, :num_image_tokens] = 0  # an image sees all of itself, a word those before it
    found = model(visual_tokens=images, textual_tokens=ids, text_padding_position=padding, attn_mask=unseen)
    return dense(found["encoder_out"][:, num_image_tokens:], "mlm_head")""",
    "classify": LAYERS
    + """\
def logits(images):  # (B, classes) of (B, 3, H, W) normalised pixels
    return dense(norm(model(visual_tokens=images)["encoder_out"][:, 1:].mean(1), "fc_norm"), "head")""",
}
"""Lines that compute the outputs of each task."""


def python_lines(card: dict[str, Any]) -> str:
    """Return the lines that load the file of a card, within its folder, and compute what it was trained for."""
    lines = CODE.format(file=card["file"], card=Path(card["file"]).with_suffix(".json"))
    heads = card.get("heads")
    if heads is None:
        return lines
    return lines + (TASKS[heads[TASK_KEY]] if TASK_KEY in heads else FEATURES)
