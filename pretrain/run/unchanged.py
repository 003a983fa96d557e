"""Checks that a resumed run has the settings and the data of its start."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_pipeline.files.remote_files import public_url
from data_pipeline.loading.kind_sources import sample_noun
from data_pipeline.loading.shard_dataset import ShardDataset
from pretrain.checkpoints.fingerprints import file_fingerprint
from pretrain.checkpoints.reader import Checkpoint, complete_folders
from pretrain.config.run_config import ConfigT, RunConfig, changed_fields
from pretrain.config.schedule import check_schedule, schedule_changes
from pretrain.survival.agreement import FatalRunError, on_every_rank
from pretrain.survival.console import warn

Files = dict[str, Path | None]
"""The run's non-shard input files, by name; None: it has no such file."""


def agreed_fingerprints(dataset: ShardDataset[Any, Any], config: RunConfig, files: Files) -> dict[str, str]:
    """Return fingerprints of the run's data and files, by kind or name. Raises FatalRunError if ranks' files differ."""
    own = on_every_rank(lambda: dataset.fingerprints | {name: file_fingerprint(path) for name, path in files.items()})
    per_rank: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(per_rank, own)
    for rank, other in enumerate(per_rank):
        for name in (name for name in other if other[name] != per_rank[0][name]):
            place = _places(config, files)[name]
            raise FatalRunError(f"rank {rank} and rank 0 read different {place}; give all nodes the same files")
    return own


def check_unchanged(
    checkpoint: Checkpoint[ConfigT], config: ConfigT, fingerprints: dict[str, str], files_before: Files, files: Files
) -> None:
    """Raise FatalRunError, listing the differences, if the run was started with different settings or data.

    files_before: of the checkpoint's config. With allow_data_change, different data are reported and accepted.
    """
    settings = changed_fields(checkpoint.config, config) + schedule_changes(checkpoint.config, config)
    before, now = _places(checkpoint.config, files_before), _places(config, files)
    data = [
        f"the contents of the {now[name]} changed"
        if before.get(name) == now[name]
        else f"{before.get(name, f'no {name}')} at its start, {now[name]} now, with other contents"
        for name, fingerprint in fingerprints.items()
        if checkpoint.data_fingerprints.get(name) != fingerprint
    ]
    if settings or (data and not config.allow_data_change):
        what = " and ".join(name for name, found in (("settings", settings), ("data", data)) if found)
        remedy = "give those of its start, or a new run_dir" + ("" if settings else "; --allow-data-change takes these")
        differences = "; ".join(settings + data)
        raise FatalRunError(f"{config.run_dir} was started with different {what} ({differences}); {remedy}")
    on_every_rank(lambda: _check_schedule(checkpoint, config))
    if data and dist.get_rank() == 0:
        warn(f"warning: {config.run_dir} continues with different data ({'; '.join(data)})")


def _check_schedule(checkpoint: Checkpoint[ConfigT], config: ConfigT) -> None:
    """Raise ValueError if the checkpoint cannot go on with this number of steps; OSError."""
    kept = [int(folder.name.removeprefix("step_")) for folder in complete_folders(config.run_dir / "checkpoints")]
    check_schedule(checkpoint.config, config, checkpoint.step, kept)


def _places(config: RunConfig, files: Files) -> dict[str, str]:
    """Return the places of a config's data, by the names of their fingerprints."""
    return {
        **{
            kind: f"{sample_noun(kind)}s of {', '.join(map(public_url, sources)) or 'no folder'}"
            for kind, sources, _ in config.kinds
        },
        **{name: f"{name} {'(no file)' if path is None else path}" for name, path in files.items()},
    }
