"""Fixtures of the tests that read from HTTP servers."""

from tests.support.http_servers import hostile, served, server

__all__ = ["hostile", "served", "server"]
