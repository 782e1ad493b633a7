"""Closing a connection whose client still sends, so that the client can read why.

The kernel resets a socket that is closed while unread bytes lie in it, and a reset throws away the answer
that the client has not read yet. So the answer is sent, our side is shut, and what still comes in is read and
discarded for a bounded time, as nginx's `lingering_close` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LINGER_SECONDS = 30.0
"""For which a client may go on sending at most."""
LINGER_IDLE_SECONDS = 5.0
"""After which a client that sends nothing is cut off."""
STOPPING_LINGER_SECONDS = 1.0
"""The same two, once the server is stopping."""


class LingeringClose(asyncio.Protocol):
    """Takes over a transport whose last answer is written, until the client closes or time is up.

    Parameters
    ----------
    on_lost : called once the connection is lost
    """

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[Exception | None], None]) -> None:
        self._transport = transport
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._last_heard = self._loop.time()
        self._deadline = self._last_heard + LINGER_SECONDS
        self._idle_seconds = LINGER_IDLE_SECONDS
        transport.set_protocol(self)
        if transport.can_write_eof():  # not over TLS
            transport.write_eof()
        if not transport.is_reading():
            transport.resume_reading()
        self._timer = self._loop.call_later(LINGER_IDLE_SECONDS, self._check)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        """Discard."""
        self._last_heard = self._loop.time()

    def eof_received(self) -> None:
        """The client has sent everything: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection that it is over."""
        self._timer.cancel()
        self._on_lost(exc)

    def stop(self) -> None:
        """Linger no longer than a stopping server waits."""
        self._deadline = min(self._deadline, self._loop.time() + STOPPING_LINGER_SECONDS)
        self._idle_seconds = STOPPING_LINGER_SECONDS
        self._timer.cancel()
        self._check()

    def _check(self) -> None:
        now = self._loop.time()
        end = min(self._deadline, self._last_heard + self._idle_seconds)
        if now >= end:
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(end - now, self._check)
