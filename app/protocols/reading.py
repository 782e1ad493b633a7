"""How far a connection is read while several tenants call, and while its key is over a quota."""

from __future__ import annotations

import asyncio
from random import uniform
from typing import Protocol

from app.engine.fair_share import TenantShare

PARSE_BYTES = 1024
"""Bytes parsed at once while several tenants call: a few small requests or messages."""
THROTTLE_SECONDS = 1.0
"""About how long a connection is not read once its key is over a quota."""


class ReadableConnection(Protocol):
    """What a reader needs of its connection."""

    @property
    def is_open(self) -> bool:
        """Whether what comes in is still parsed."""

    @property
    def piece_bytes(self) -> int:
        """Bytes to parse at once, now."""

    def parse(self, data: bytes) -> None:
        """Parse these bytes, whatever they hold."""

    def pause_reading(self) -> None:
        """Read no further from the transport."""

    def resume_reading(self) -> None:
        """Read on, unless the connection itself has a reason not to."""


class FairReader:
    """Parses no more of a connection than its tenant's share has room for.

    What came in beyond that is kept in `unparsed`, and the connection waits in its tenant's line.
    Nothing is kept, and nothing waits, while only one tenant calls.

    Parameters
    ----------
    connection : what is read
    share : of the tenant that the connection belongs to; None until that is known
    """

    __slots__ = ("_connection", "_parsed", "in_line", "share", "throttled", "unparsed")

    def __init__(self, connection: ReadableConnection, share: TenantShare | None = None) -> None:
        self._connection = connection
        self.share = share
        self.unparsed = b""
        self._parsed = 0  # bytes of `unparsed` that are parsed already
        self.in_line = False
        self.throttled = False

    @property
    def is_waiting(self) -> bool:
        """Whether the transport must not be read on because of what is in here."""
        return self.in_line or self.throttled or bool(self.unparsed)

    def receive(self, data: bytes) -> None:
        """Parse as much as there is room for; the rest waits."""
        connection = self._connection
        self.unparsed += data
        while self._parsed < len(self.unparsed) and not self._must_wait():
            piece = self.unparsed[self._parsed : self._parsed + connection.piece_bytes]
            self._parsed += len(piece)
            connection.parse(piece)
            if not connection.is_open:
                self.take_unparsed()
                return
        self.unparsed = self.take_unparsed()
        if self._must_wait():
            connection.pause_reading()
        else:
            connection.resume_reading()

    def take_unparsed(self) -> bytes:
        """Hand out what came in and was not parsed, and forget it."""
        rest = self.unparsed[self._parsed :]
        self.unparsed, self._parsed = b"", 0
        return rest

    def resume(self) -> None:
        """Parse on: the tenant's share has room again."""
        self.in_line = False
        if self._connection.is_open:
            self.receive(b"")

    def throttle(self, seconds: float) -> None:
        """Read no further for a while: to read only to refuse would cost the other tenants.

        Parameters
        ----------
        seconds : after which the quota has room again; at most `THROTTLE_SECONDS` of them are waited
        """
        if self.throttled:
            return
        self.throttled = True
        self._connection.pause_reading()
        # At random, so that connections that were refused together do not come back together.
        delay = min(seconds, THROTTLE_SECONDS) * uniform(0.5, 1.5)
        asyncio.get_running_loop().call_later(delay, self._end_throttle)

    def _end_throttle(self) -> None:
        self.throttled = False
        if self._connection.is_open:
            self.receive(b"")

    def _must_wait(self) -> bool:
        share = self.share
        if share is not None and share.full and not self.in_line:
            self.in_line = True
            share.add_waiter(self)
        return self.in_line or self.throttled
