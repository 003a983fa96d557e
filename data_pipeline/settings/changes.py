"""Which settings of a run may change when it is resumed, and which have, with the old value and the new one.

    num_workers: MayChange[WorkersOrZero] = 4

A field is marked if it does not touch what is computed, or if it is a path whose contents are compared instead.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

T = TypeVar("T")


class _Mark:
    """The type of MAY_CHANGE."""


MAY_CHANGE = _Mark()
MayChange = Annotated[T, MAY_CHANGE]
"""Annotation of a config's field, or of a whole nested config, that a resumed run may change."""


def fixed_fields(config: Any, prefix: str = "") -> dict[str, object]:
    """Return the fields of a dataclass that a resumed run may not change, nested ones by dotted names."""
    hints = get_type_hints(type(config), include_extras=True)
    found: dict[str, object] = {}
    for field in fields(config):
        if MAY_CHANGE in getattr(hints[field.name], "__metadata__", ()):
            continue
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        found |= fixed_fields(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found


def changes(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return 'NAME was OLD, is now NEW' for each setting of either that differs."""
    return [
        f"{name} was {as_typed(old.get(name))}, is now {as_typed(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def as_typed(value: object) -> str:
    """Return a value as it is typed on a command line, without the names of Python's types."""
    text = " ".join(map(as_typed, value)) if isinstance(value, (tuple, list)) else str(value)
    return text or "nothing"
