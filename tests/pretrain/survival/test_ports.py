"""Free ports."""

import socket

from pretrain.survival.ports import free_port


def test_a_free_port_can_be_bound_and_is_not_given_again_meanwhile() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert free_port() != port
