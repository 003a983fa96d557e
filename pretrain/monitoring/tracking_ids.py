"""Ids of a run at tracking servers, kept in RUN/tracking.json, so that a resumed run goes on under the same id."""

import json
from contextlib import suppress
from pathlib import Path

TRACKING_NAME = "tracking.json"


def read_tracking_id(run_dir: Path, server: str) -> str | None:
    """Return the id of a run at a server; None if it has none yet."""
    found = _read(run_dir).get(server)
    return found if isinstance(found, str) else None


def write_tracking_id(run_dir: Path, server: str, identity: str) -> None:
    """Keep the id of a run at a server. Raises OSError."""
    path = run_dir / TRACKING_NAME
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_read(run_dir) | {server: identity}, indent=2) + "\n")
    partial.rename(path)


def _read(run_dir: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):  # a new id is made
        content = json.loads((run_dir / TRACKING_NAME).read_text())
        if isinstance(content, dict):
            return content
    return {}
