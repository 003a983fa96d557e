"""Configs from files: JSON, TOML or YAML with the fields of a recipe, such as the config.json that a run wrote.

The same fields with the same checks as on the command line, and every mistake in one sentence. A path or a URL stands
as it would stand there; passwords and signatures, which a run leaves out of its config.json, have to be given again.
"""

import dataclasses
import json
import re
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data_pipeline.settings.parsing import sound_path
from data_pipeline.settings.ranges import ranges_of
from data_pipeline.settings.suggestions import did_you_mean
from pretrain.config.run_config import RunConfig, config_from_json

ConfigT = TypeVar("ConfigT", bound=RunConfig)
MAX_BYTES = 1 << 24
"""Limit for a file; the config of a run takes a thousandth of it."""


def read_config_file(path: Path, *kinds: type[ConfigT]) -> ConfigT:
    """Return the config in a file, of the one of the kinds that it fits best. Raises ValueError, naming the field, if
    it does not hold one of that kind."""
    content = read_mapping(path)
    kind = min(kinds, key=lambda kind: sum(1 for _ in mistakes(kind, content, "")))
    for mistake in mistakes(kind, content, ""):
        raise ValueError(f"{path}: {mistake}")
    try:
        return config_from_json(kind, json.dumps(content))
    except ValueError as error:  # rules that concern several fields
        raise ValueError(f"{path}: {str(error).rpartition('Value error, ')[2]}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the names and values in a file, read by its suffix. Raises ValueError if it holds something else."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} is a config in no known format; give a file that ends in {', '.join(READERS)}")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give another file") from error
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes; give the config of a run")
    try:
        content = read(text.decode())
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs PyYAML: pip install pyyaml, or write the file as JSON or TOML") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{path} is not valid {path.suffix[1:].upper()}: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, as the config.json of a run does")
    return content


def mistakes(kind: type[Any], content: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Yield the mistakes in the names and types of a dataclass's fields, nested ones by dotted names."""
    hints = get_type_hints(kind, include_extras=True)
    ranges = ranges_of(kind)  # type: ignore[arg-type]  # classes are hashable
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in content.items():
        if key not in fields:
            where = f"{prefix.rstrip('.')} has" if prefix else "a config has"
            yield f"there is no field {prefix}{key}{did_you_mean(str(key), fields) or f'; {where} {_listed(fields)}'}"
            continue
        nested = next((part for part in _parts(hints[key]) if dataclasses.is_dataclass(part)), None)
        if nested is not None:
            if isinstance(value, dict):
                yield from mistakes(nested, value, f"{prefix}{key}.")  # type: ignore[arg-type]
            else:
                yield f"{prefix}{key} {_shown(value)} must hold names and values"
        elif (
            expected := str(ranges[key]) * (value not in ranges[key]) if key in ranges else _expected(hints[key], value)
        ):
            yield f"{prefix}{key} {_shown(value)} must be {expected}"
    for name, field in fields.items():
        if name not in content and field.default is field.default_factory is dataclasses.MISSING:
            yield f"{prefix}{name} must be given"


def _expected(annotation: Any, value: Any) -> str:
    """Return what a value must be, in words; empty if it is, or if only pydantic knows."""
    parts = _parts(annotation)
    if value is None:
        return "" if type(None) in parts else "given"
    for part in parts:
        if get_origin(part) is Literal:
            allowed = get_args(part)
            return "" if value in allowed else f"one of {', '.join(map(str, allowed))}"
        if part is bool:
            return "" if isinstance(value, bool) else "true or false"
        if part is str:
            return "" if isinstance(value, str) else "a text"
        if part is Path:
            return _expected_of_path(value)
        if get_origin(part) is tuple:
            is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
            return "" if is_list else "a list of texts"
    return ""


def _expected_of_path(value: Any) -> str:
    try:
        sound_path(value)
    except (TypeError, ValueError):
        return "a path"
    return ""


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Annotated[X | None, ...] -> (X, NoneType), X -> (X,)"""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for argument in get_args(annotation) for part in _parts(argument))
    return (annotation,)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):  # aliases of YAML can make them enormous
        return "{...}" if isinstance(value, dict) else "[...]"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_strict_json(text: str | bytes) -> Any:
    """Return the content of a JSON text. Raises ValueError if a name is set twice, or for NaN and infinities."""
    return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refused_constant)


def _without_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"it sets {name!r} twice; remove one")
    return dict(pairs)


def _refused_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _read_yaml(text: str) -> Any:
    import yaml  # optional, and needed for such files only

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads 1e-3 as a number, as YAML 1.2 and every other format do, and refuses a name that is set twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            return _without_duplicates(
                [(self.construct_object(k, deep=True), self.construct_object(v, deep=True)) for k, v in node.value]
            )

    exponent = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True))
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(str(error)) from error


READERS: dict[str, Callable[[str], Any]] = {
    ".json": read_strict_json,
    ".toml": tomllib.loads,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
"""Readers of the text of a file, by its suffix."""
