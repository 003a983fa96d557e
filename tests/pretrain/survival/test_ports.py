"""A free port can be listened at."""

import socket

from pretrain.survival.ports import free_port


def test_a_free_port_can_be_listened_at_and_is_not_given_again_while_it_is() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert free_port() != port
