"""Teachers of the visual tokenizer: frozen networks whose patch features it learns to reconstruct.

Nothing is downloaded: weights come from local files. `torchscript` and dotted paths are code, which runs when they are
loaded, with the rights of the user who starts the run; files for `timm:` and `open_clip:` are data, and TorchScript
archives are refused there.

Source: BEiT v2 (arXiv 2208.06366), section 3.1: CLIP's ViT-B/16 (512) or DINO's (768), 14 x 14 patches of 224 px.
Shapes: B images, S side in pixels, G patches along a side, E teacher dim.
"""

import importlib
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from model.visual_tokenizer import patch_pixels
from model.weight_checks import form_defect
from model.weight_files import is_safetensors, is_torchscript, read_safetensors, read_torch_file
from pretrain.config.visual_tokenizer import TeacherConfig
from pretrain.formats.timm import import_timm

Teacher = Callable[[Tensor], Tensor]
"""(B, 3, S, S) pixels in [0, 1], float32 -> (B, G * G, E) features of the patches, row-major, float32."""

_NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)
"""Types allowed in a teacher's file; all are converted to float32."""
NAMES = "pixels, timm:MODEL, open_clip:MODEL, torchscript or package.module.function"


def load_teacher(config: TeacherConfig, patch_size: int, device: torch.device) -> Teacher:
    """Return a frozen teacher, which computes without gradients. Raises ValueError for an unusable name or file."""
    kind, _, model = config.name.partition(":")
    if config.name == "pixels":
        if config.weights is not None:
            raise ValueError(f"teacher pixels has no weights, but teacher.weights is {config.weights}; leave it out")
        return _frozen(lambda pixels: patch_pixels(pixels, patch_size), None, device)
    if kind == "timm" and model:
        tower = _timm_tower(config.name, model, _existing(config), config.image_size)
        mean, std = tower.pretrained_cfg["mean"], tower.pretrained_cfg["std"]
        return _frozen(lambda pixels: _timm_features(config.name, tower, pixels), tower, device, mean, std)
    if kind == "open_clip" and model:
        tower, mean, std = _open_clip_tower(config.name, model, _existing(config), config.image_size)
        return _frozen(lambda pixels: _open_clip_features(tower, pixels), tower, device, mean, std)
    if config.name == "torchscript":
        script = _load_script(_existing(config))
        return _frozen(lambda pixels: _script_features(script, pixels), script, device)
    if "." in kind.strip(".") and ":" not in config.name:
        function = _call_dotted_path(config)
        return _frozen(function, function, device)
    raise ValueError(f"there is no teacher {config.name!r}; teacher.name is one of {NAMES}")


def check_teacher(teacher: Teacher, image_size: int, grid_size: int, teacher_dim: int, device: torch.device) -> None:
    """Raise ValueError unless the teacher returns finite features (B, grid_size ** 2, teacher_dim) for image_size."""
    try:
        features = teacher(torch.full((1, 3, image_size, image_size), 0.5, device=device))
    except ValueError:  # its message is a sentence for users already
        raise
    except Exception as error:  # a teacher may be anybody's code
        raise ValueError(
            f"the teacher takes no images of {image_size} px ({_reason(error)}); set teacher.image_size to its own size"
        ) from error
    if features.ndim != 3:
        raise ValueError(f"the teacher gives the shape {tuple(features.shape)}; it must be (B, patches, dimensions)")
    _, num_patches, dim = features.shape
    if (num_patches, dim) != (grid_size**2, teacher_dim):
        remedies = [] if dim == teacher_dim else [f"set model.teacher_dim {dim}"]
        if num_patches != grid_size**2:
            size, rest = divmod(image_size * grid_size, math.isqrt(num_patches))
            is_known = math.isqrt(num_patches) ** 2 == num_patches and not rest
            size_that_fits = str(size) if is_known else "to one that gives as many patches, or use another teacher"
            remedies.insert(0, f"set teacher.image_size {size_that_fits}")
        raise ValueError(
            f"the teacher gives {_grid(num_patches)} patches of {dim} dimensions for images of {image_size} px, the "
            f"tokenizer expects {_grid(grid_size**2)} of {teacher_dim}; {' and '.join(remedies)}"
        )
    if not features.isfinite().all():
        raise ValueError("the teacher's features of a grey image are not finite; its weights are broken, use others")


def _frozen(
    features: Teacher, network: Any, device: torch.device, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> Teacher:
    """Return `features` of pixels normalised by mean and std, without gradients. network: the network it calls."""
    if isinstance(network, nn.Module):
        network.eval().to(device)
        for parameter in network.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad_(False)
    means, stds = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))

    @torch.no_grad()
    def teacher(pixels: Tensor) -> Tensor:
        found = features((pixels - means) / stds)
        if not isinstance(found, Tensor):
            raise ValueError(f"the teacher gives {type(found).__name__}; it must be a tensor (B, patches, dimensions)")
        return found.float()

    return teacher


def _timm_features(name: str, tower: Any, pixels: Tensor) -> Tensor:
    """Return (B, G * G, E) features of the patches alone, from normalised pixels."""
    features = tower.forward_features(pixels)
    num_dims = features.ndim if isinstance(features, Tensor) else 0
    if num_dims == 3 and hasattr(tower, "num_prefix_tokens"):
        return features[:, tower.num_prefix_tokens :]
    if num_dims == 4 and getattr(tower, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    if num_dims == 4 and features.shape[1] == tower.num_features:
        return features.flatten(2).transpose(1, 2)  # (B, E, G, G) -> (B, G * G, E)
    raise ValueError(f"{name} gives neither tokens nor a map whose order is known; use a ViT or a convnet")


def _open_clip_features(tower: Any, pixels: Tensor) -> Tensor:
    """Return all patch tokens after the last norm, projected, from normalised pixels (CLIP's ln_post, proj)."""
    states = tower.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
    )
    return states["image_intermediates"][-1] @ tower.proj


def _script_features(script: Any, pixels: Tensor) -> Tensor:
    features = script(pixels)
    is_map = isinstance(features, Tensor) and features.ndim == 4
    return features.flatten(2).transpose(1, 2) if is_map else features


def _timm_tower(name: str, model: str, weights: Path, image_size: int | None) -> Any:
    timm = import_timm("pip install -c constraints.txt timm, or use another teacher.name")
    if not timm.is_model(model.split(".")[0]):
        raise ValueError(f"timm {timm.__version__} has no model {model!r}; timm.list_models() has their names")
    state = _read_state_dict(weights)
    try:
        classifiers = timm.get_pretrained_cfg(model).classifier or ()
        for classifier in (classifiers,) if isinstance(classifiers, str) else classifiers:
            for head in (classifier, classifier.split(".")[0]):
                state.pop(f"{head}.weight", None)
                state.pop(f"{head}.bias", None)
        # Passed as pretrained weights, so that timm renames and resamples them; strictly, as no classifier is named
        arguments = {"num_classes": 0, "pretrained": True}
        overlay = {"state_dict": state, "classifier": None}
        tower = _create_for_size(timm, model, image_size, arguments | {"pretrained_cfg_overlay": overlay})
    except (RuntimeError, KeyError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{weights} does not fit {name} ({_reason(error)}); give that model's weights") from error
    tower.pretrained_cfg.pop("state_dict")
    return tower


def _create_for_size(timm: ModuleType, model: str, image_size: int | None, arguments: dict[str, Any]) -> Any:
    """Return a tower for images of image_size, or of any size (None) if its architecture supports that."""
    size: dict[str, Any] = {"dynamic_img_size": True} if image_size is None else {"img_size": image_size}
    try:
        return timm.create_model(model, **arguments, **size)
    except TypeError as error:
        if not any(name in str(error) for name in size):
            raise
        return timm.create_model(model, **arguments)


def _open_clip_tower(
    name: str, model: str, weights: Path, image_size: int | None
) -> tuple[Any, list[float], list[float]]:
    """Return the image tower, and mean and std of its pixels."""
    remedy = "pip install -c constraints.txt open_clip_torch, or take another teacher.name"
    import_timm(remedy)  # open_clip imports timm and torchvision; this makes both importable
    try:
        open_clip = importlib.import_module("open_clip")
        resize_pos_embed = importlib.import_module("open_clip.model").resize_pos_embed
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"open_clip is needed here ({_reason(error)}); {remedy}") from error
    if model not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {model!r}; open_clip.list_models() has their names")
    sizes = open_clip.get_model_config(model)
    vision = sizes["vision_cfg"]
    foreign = ("timm_model_name", "attentional_pool", "final_ln_after_pool")
    if any(vision.get(key) for key in foreign) or not isinstance(vision.get("layers", 12), int):
        raise ValueError(f"{name} has no projected patch tokens; use a plain ViT, such as open_clip:ViT-B-16-quickgelu")
    if image_size is not None:
        vision["image_size"] = image_size
    no_text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
    clip = open_clip.CLIP(sizes["embed_dim"], vision, no_text, quick_gelu=sizes.get("quick_gelu", False))
    state = {key: value for key, value in _read_state_dict(weights).items() if key.startswith("visual.")}
    try:
        resize_pos_embed(state, clip)
        clip.visual.load_state_dict({key.removeprefix("visual."): value for key, value in state.items()})
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {name} ({_reason(error)}); give that model's weights") from error
    return clip.visual, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def _call_dotted_path(config: TeacherConfig) -> Teacher:
    module_name, _, function_name = config.name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no teacher {config.name!r} ({_reason(error)}); check teacher.name") from error
    rule = f"{config.name} must take teacher.weights (None if not set) and return a function of pixels"
    try:
        teacher = function(config.weights)
    except Exception as error:
        raise ValueError(f"teacher {config.name} failed ({type(error).__name__}: {_reason(error)}); {rule}") from error
    if not callable(teacher):
        raise ValueError(f"{config.name} gives {type(teacher).__name__}; {rule}")
    return teacher


def _existing(config: TeacherConfig) -> Path:
    if config.weights is None:
        raise ValueError(f"teacher {config.name} has no weights; set teacher.weights to a local file")
    if not config.weights.is_file():
        raise ValueError(f"teacher.weights {config.weights} is not a file; give the weights of teacher {config.name}")
    return config.weights


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return float32 tensors by name, unwrapped from "state_dict" or "model", without DDP's prefix "module."."""
    if is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript archive, which runs code when it is loaded; give safetensors, or, if you trust "
            "it, save torch.jit.load(...).state_dict() with torch.save and give that"
        )
    state: Any = read_safetensors(path) if is_safetensors(path) else read_torch_file(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no tensors by name; give .safetensors or a state dict")
    for name, value in state.items():
        if (defect := form_defect(value, value.shape, _NUMBERS)) is not None:
            raise ValueError(f"{path} has {defect[0]} for {name}, expected {defect[1]}; give other weights")
    return {str(key).removeprefix("module."): value.float() for key, value in state.items()}


def _load_script(path: Path) -> Any:
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise ValueError(f"{path} is not a TorchScript file ({_reason(error)}); save it with torch.jit.save") from error


def _grid(num_patches: int) -> str:
    side = math.isqrt(num_patches)
    return f"{side} x {side}" if side**2 == num_patches else str(num_patches)


def _reason(error: Exception) -> str:
    """Return the beginning of a message, on one line."""
    return textwrap.shorten(str(error), 160, placeholder=" ...") or type(error).__name__
