"""From a log record to the figures that monitors draw: flat names, `loss/mim`, so that related curves are together."""

from collections.abc import Iterator, Mapping
from typing import Any

GROUPS = {
    "losses": "loss",
    "grad_norms": "grad_norm",
    "weight_norms": "weight_norm",
    "codebook": "codebook",
    "contrast": "contrast",
    "task": "task",
    "passes": "passes",
}
"""Fields of a record that hold figures by name, with the first part of their names here."""
SINGLE = (
    *("loss", "grad_norm", "lr", "tokens_per_second", "mfu", "data_wait", "memory_gib", "seconds"),
    *("num_tokens", "bad_samples", "num_skipped_steps"),
)


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a log record. Those that a step lacks, such as norms by part, are left out."""
    single = {name: record[name] for name in SINGLE if record.get(name) is not None}
    groups = {
        f"{group}/{name}": value for field, group in GROUPS.items() for name, value in _flat(record.get(field) or {})
    }
    return single | groups


def _flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the figures of nested groups, with names joined by slashes."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", figure) for inner, figure in _flat(value))
        elif value is not None:
            yield name.replace("://", "/").strip("/"), value  # folders and URLs, the names of sources
