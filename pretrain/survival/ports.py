"""A port for processes of this machine that meet each other."""

import socket


def free_port() -> int:
    """Return a TCP port that nothing listens at now; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
