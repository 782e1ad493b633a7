"""Limits the open connections of HTTP and of sockets. The gRPC library counts its own."""

from __future__ import annotations

MAX_REFUSALS = 32
"""Limit of connections beyond the limit that are kept open for a moment to be refused with an answer."""


class ConnectionLimit:
    """Counts open connections of HTTP and of sockets. Used by the event loop's thread alone.

    A connection beyond the limit may stay open for a moment, to be refused with an answer. At most
    `MAX_REFUSALS` connections do so at once.

    Parameters
    ----------
    limit : most connections open at once
    """

    __slots__ = ("elsewhere", "limit", "open", "refused", "refusing")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.elsewhere = 0  # connections that other workers have
        self.refused = 0
        self.refusing = 0

    def acquire(self) -> bool:
        """Count a connection if there is room. Returns whether there was; if so, call `release` once."""
        if self.open + self.elsewhere >= self.limit:
            self.refused += 1
            return False
        self.open += 1
        return True

    def release(self) -> None:
        """Stop counting a connection that was acquired."""
        self.open -= 1

    def begin_refusal(self) -> bool:
        """Whether a connection beyond the limit may be answered. If so, call `end_refusal` at its end."""
        if self.refusing >= MAX_REFUSALS:
            return False
        self.refusing += 1
        return True

    def end_refusal(self) -> None:
        """Stop counting a connection that was refused with an answer."""
        self.refusing -= 1
