"""Fixtures of the tests of the data pipeline."""

from tests.support.http_servers import hostile, served, server
from tests.support.shard_files import good_pairs, images, pairs

__all__ = ["good_pairs", "hostile", "images", "pairs", "served", "server"]
