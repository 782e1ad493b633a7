"""A port for a process that is about to start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of 127.0.0.1 that only a server which asks for it by number gets in the next minute.

    A connection that this end closed first stays in TIME_WAIT. Until that is over, Linux gives the port to no
    socket that takes any port, and to no client. A server that sets SO_REUSEADDR, as servers do, may bind it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        with socket.create_connection(address) as client:
            listening.accept()[0].close()
            client.recv(1)
    return int(address[1])
