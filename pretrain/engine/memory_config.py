"""DeepSpeed's file, a ds_configs/*.json, read and checked, also for what DeepSpeed would ignore or misread.

It sets how memory and communication work and nothing else; ds_configs/README.md explains the settings.
"""

import json
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel, ConfigDict, ValidationError

from data_pipeline.settings.suggestions import did_you_mean
from pretrain.config.config_file import read_strict_json
from pretrain.config.run_config import RunConfig

FOLDER = Path(__file__).parents[2] / "ds_configs"
"""The files that come with the project, found from any working folder."""
OWNED_BY_RECIPE = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
LARGEST = 2**63 - 1


class DataTypes(BaseModel):
    """The block data_types, of which DeepSpeed has no model."""

    model_config = ConfigDict(extra="forbid")

    grad_accum_dtype: Literal["fp32", "fp16", "bf16"] | None = None


class MemoryConfig(BaseModel):
    """The blocks and keys that a file may hold. DeepSpeed has more, which a run sets itself or does not use."""

    model_config = ConfigDict(extra="forbid")

    zero_optimization: DeepSpeedZeroConfig
    communication_data_type: Literal["fp32", "fp16", "bf16"] | None = None
    comms_logger: CommsLoggerConfig | None = None
    data_types: DataTypes | None = None
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    dump_state: bool = False
    disable_python_gc: bool = False
    zero_allow_untested_optimizer: Literal[True] = True
    """Set by every run; accepted because files made for other trainers mostly have it."""


def zero_settings(memory_config: dict[str, Any]) -> DeepSpeedZeroConfig:
    """Return the settings of ZeRO, with DeepSpeed's defaults for those that the file leaves out."""
    return DeepSpeedZeroConfig(**memory_config["zero_optimization"])


def read_memory_config(path: Path) -> dict[str, Any]:
    """Return the content of a file. Raises ValueError unless it is a JSON object of settings that DeepSpeed accepts."""
    path = find_memory_config(path)
    try:
        content = read_strict_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"DeepSpeed config {path} cannot be read ({error.strerror}); give another file") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"DeepSpeed config {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"DeepSpeed config {path} must be a JSON object, {{...}}, not a {_kind_of(content)}")
    check_content(path, content)
    return content


def find_memory_config(path: Path) -> Path:
    """Return the file: relative to the working folder or, if there is none, the one of that name in ds_configs/.

    Raises ValueError if it does not exist.
    """
    shipped = FOLDER / path.name
    if not path.is_absolute() and path.parent.name == FOLDER.name and not path.exists() and shipped.is_file():
        return shipped
    if path.is_dir():
        raise ValueError(f"DeepSpeed config {path} is a folder; give one of its files")
    if not path.exists():
        known = {file.name: file for file in FOLDER.glob("*.json")}
        raise ValueError(
            f"DeepSpeed config {path} does not exist{did_you_mean(path.name, known)}; choose one of "
            f"{', '.join(f'ds_configs/{name}' for name in sorted(known))}"
        )
    return path


def check_content(path: Path, content: dict[str, Any]) -> None:
    """Raise ValueError for a key that is not used, a value of another type, and settings that DeepSpeed refuses."""
    taken = sorted(set(content) & set(OWNED_BY_RECIPE))
    if taken:
        raise ValueError(f"{path} sets {', '.join(taken)}, which the recipe owns; remove it there")
    for problem in _problems(MemoryConfig, content, ""):
        raise ValueError(f"{path} {problem}")
    if "zero_optimization" not in content:
        raise ValueError(f"{path} has no block zero_optimization; add it, as in the files of ds_configs/")
    try:
        MemoryConfig.model_validate(content)
    except (ValidationError, AssertionError) as error:
        raise ValueError(f"{path} is refused by DeepSpeed: {_reason(error)}") from error


def check_memory_config(config: RunConfig, memory_config: dict[str, Any], world_size: int) -> None:
    """Raise ValueError if a run with these settings would train wrongly or could not be saved."""
    path, zero = config.deepspeed_config, memory_config["zero_optimization"]
    check_content(path, memory_config)
    if zero.get("stage") not in (1, 2, 3) or zero.get("compute_grad_norm") is False:
        raise ValueError(
            f"{path} must set zero_optimization.stage to 1, 2 or 3 and leave compute_grad_norm on: "
            "else DeepSpeed applies gradients that are not finite"
        )
    if zero.get("round_robin_gradients"):
        raise ValueError(f"{path} must not set round_robin_gradients: DeepSpeed's tools misread such checkpoints")
    if zero.get("zenflow") is not None:
        raise ValueError(f"{path} must not set zenflow: it applies gradients of earlier steps, which changes a run")
    for name in ("leaf_module", "legacy_stage1"):
        if zero.get(name):
            raise ValueError(f"{path} must not set {name}: a run chooses how ZeRO divides its network")
    _check_offload(config, zero)
    ranks_per_node = zero.get("zero_hpz_partition_size") or 1
    if ranks_per_node > 1 and zero["stage"] != 3:
        raise ValueError(f"{path} sets zero_hpz_partition_size, which needs zero_optimization.stage 3")
    if world_size % ranks_per_node:
        raise ValueError(
            f"{path} sets zero_hpz_partition_size {ranks_per_node}, which must divide the number of "
            f"ranks, {world_size}; set it to the GPUs of a node"
        )


def _check_offload(config: RunConfig, zero: dict[str, Any]) -> None:
    """Raise ValueError if checkpoints would lack the offloaded state: DeepSpeed leaves it out of their files."""
    for name in ("offload_optimizer", "offload_param"):
        offload = zero.get(name) or {}
        if offload.get("device", "none") not in ("none", "cpu"):
            raise ValueError(f"{config.deepspeed_config} sets {name}.device {offload['device']}; set it to cpu or none")
        for setting, allowed in (("ratio", 1.0), ("super_offload", False)):
            if offload.get(setting, allowed) != allowed:
                raise ValueError(f"{config.deepspeed_config} must not set {name}.{setting}: its state is not saved")
    if (zero.get("offload_param") or {}).get("device", "none") != "none" and zero["stage"] != 3:
        raise ValueError(f"{config.deepspeed_config} sets offload_param, which needs zero_optimization.stage 3")


def _problems(model: type[BaseModel], content: dict[str, Any], prefix: str) -> Iterator[str]:
    """Yield the mistakes in the keys and types of a block and of the blocks in it."""
    known = {name: field for field_name, field in model.model_fields.items() for name in (field_name, field.alias)}
    for key, value in content.items():
        if key not in known:
            names = [name for name in known if name is not None]
            where = f"; {prefix.rstrip('.')} has no such key" if prefix else f"; keys are {', '.join(names)}"
            yield f"sets {prefix}{key}, which is not used here{did_you_mean(key, names) or where}; remove or correct it"
            continue
        field = known[key]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("deprecated"):
            yield f"sets {prefix}{key}, which DeepSpeed has replaced; set {extra['new_param']} instead"
        blocks = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if blocks and isinstance(value, dict):
            yield from _problems(blocks[0], value, f"{prefix}{key}.")
        elif expected := _mistyped(field.annotation, blocks, value):
            yield f"sets {prefix}{key} to {json.dumps(value)[:60]}; it must be {expected}"


def _mistyped(annotation: Any, blocks: list[type], value: Any) -> str:
    """Return what a value must be, empty if it is: pydantic would take "yes" for true and true for 1."""
    parts = _parts(annotation)
    if blocks:
        return "" if value is None and type(None) in parts else "an object, {...}"
    for kind in parts:
        if isinstance(kind, type) and issubclass(kind, Enum):
            known = [member.value for member in kind]
            is_one = any(value == member and type(value) is type(member) for member in known)
            return "" if is_one else f"one of {', '.join(map(str, known))}"
    if bool in parts:
        return "" if isinstance(value, bool) or (value is None and type(None) in parts) else "true or false"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if int in parts and not (is_number and abs(value) <= LARGEST and value == int(value)):  # 1e999 is infinite
        return "an integer of at most 64 bits"
    if float in parts and not is_number:
        return "a number"
    return ""


def _parts(annotation: Any) -> tuple[Any, ...]:
    """X | Y -> (X, Y), X -> (X,)"""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _kind_of(content: Any) -> str:
    return {list: "list", str: "string", bool: "truth value", type(None): "null"}.get(type(content), "number")


def _reason(error: Exception) -> str:
    """Return the reason of an error; of pydantic's, the first, with its key."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors(include_url=False)[0]
    value = json.dumps(first["input"], default=str)[:60]
    return f"{'.'.join(map(str, first['loc']))} {value}: {first['msg']}"
