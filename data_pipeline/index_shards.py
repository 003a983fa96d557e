"""python -m data_pipeline.index_shards KIND FOLDER : index WebDataset shards that others wrote, in place."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from data_pipeline.command_line import run_command
from data_pipeline.samples import Kind
from data_pipeline.shard_index import write_index


@dataclass(frozen=True)
class IndexOptions:
    """Index the .tar shards of a folder. They are read, never rewritten."""

    kind: tyro.conf.Positional[Kind]
    """What a sample must have: image (jpg, png or webp), text (txt), or both."""
    folder: tyro.conf.Positional[Path]
    """The folder of shards."""


def main() -> None:
    run_command(IndexOptions, "data_pipeline.index_shards", _index)


def _index(options: IndexOptions) -> str:
    index = write_index(options.folder, options.kind)
    return (
        f"{options.folder}: {index.num_samples} samples in {len(index.shards)} shards, fingerprint {index.fingerprint}"
    )


if __name__ == "__main__":
    main()
