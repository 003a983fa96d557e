"""Settings that differ, with their old and new values."""

from collections.abc import Mapping


def changes(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return 'NAME was OLD, is now NEW' for each setting that differs."""
    return [
        f"{name} was {as_typed(old.get(name))}, is now {as_typed(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def as_typed(value: object) -> str:
    """Return a value as a command line has it, without the names of Python's types."""
    text = " ".join(map(as_typed, value)) if isinstance(value, (tuple, list)) else str(value)
    return text or "nothing"
