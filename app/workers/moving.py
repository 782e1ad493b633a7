"""Connections that move to the worker which owns their session.

A client that sends to one session need not be answered through another worker for ever: its connection is
passed on, with the request that has come in on it. From then on the owner reads and answers it, as if it had
accepted it. A connection over TLS cannot move, because its keys are in the process.

The socket between the workers keeps messages apart (SOCK_DGRAM), so a connection arrives whole or not at all.
If the owner dies before it has taken a connection, the connection is closed, and its client sends again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from array import array
from collections.abc import Callable
from contextlib import suppress

from app.workers.place import Place, owner_of

log = logging.getLogger("carryover.workers")

MAX_BYTES = 32_768  # of what has come in on a connection that moves
Accept = Callable[[socket.socket, bytes, int], None]
"""Takes a connection, what has come in on it, and how often it has moved."""


class ConnectionMover:
    """Sends connections to other workers, and takes theirs.

    Parameters
    ----------
    place : of this worker
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    @property
    def index(self) -> int:
        """Of this worker."""
        return self._place.index

    def owner(self, session: str) -> int:
        """The worker that owns a session."""
        return owner_of(session, self._place.count)

    def start(self, accept: Accept) -> None:
        """Take connections from now on.

        Parameters
        ----------
        accept : takes a connection
        """
        self._accept = accept
        path = self._place.connections(self._place.index)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def stop(self) -> None:
        """Take those that are on their way, and no more."""
        self._place.connections(self._place.index).unlink(missing_ok=True)
        asyncio.get_running_loop().remove_reader(self._socket)
        self._receive()
        self._socket.close()

    def send(self, owner: int, file: int, data: bytes, moves: int) -> bool:
        """Send a connection to its owner. Returns whether it was sent; if so, only close it here.

        Parameters
        ----------
        file : descriptor of the connection
        data : what has come in on it, and was not answered
        moves : how often it has moved, this time included
        """
        if len(data) > MAX_BYTES:
            return False
        message = [bytes((min(moves, 255),)), data]
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file]))
        try:
            # As `socket.send_fds`, which ignores the address.
            self._socket.sendmsg(message, [rights], 0, str(self._place.connections(owner)))
        except OSError:  # the other worker is starting, or has too many waiting
            return False
        return True

    def _receive(self) -> None:
        while True:
            try:
                message, files, _, _ = socket.recv_fds(self._socket, MAX_BYTES + 1, 1)
            except OSError:  # nothing more
                return
            for file in files:
                try:
                    connection = socket.socket(fileno=file)
                    connection.setblocking(False)
                    self._accept(connection, message[1:], message[0])
                except Exception:
                    log.exception("a connection of another worker could not be taken; it is closed")
                    with suppress(OSError):
                        connection.close()
