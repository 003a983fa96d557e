"""Fixtures that several test files share."""

from pathlib import Path

import pytest

from tests.tiny_run import TinyData, write_tiny_data


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Shards and tokenizers for runs of a few steps. Read only: tests that damage them take a copy."""
    folder: Path = tmp_path_factory.mktemp("tiny_data")
    return write_tiny_data(folder)
