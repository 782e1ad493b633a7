"""The sockets that all workers of a server listen on."""

from __future__ import annotations

import socket

from app.errors import ConfigError


def bind(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Sockets at every address of a host, bound and not listening yet.

    Parameters
    ----------
    port : 0 takes a free one
    shared : other processes may listen there as well, and the kernel spreads the connections

    Raises
    ------
    ConfigError : they cannot be bound
    """
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            sockets.append(bound := socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(sockets) > 1:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            bound.bind(address)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise ConfigError(f"the server cannot listen on {host}:{port}: {error.strerror}") from error
    return sockets
