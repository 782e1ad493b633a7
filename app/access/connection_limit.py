"""How many connections of HTTP and of sockets may be open at once; gRPC's core counts its own."""

from __future__ import annotations

MAX_REFUSALS = 32
"""Connections too many that may be answered at once; they take open files beyond the limit."""


class ConnectionLimit:
    """Counts open connections of HTTP and of sockets. Used by the event loop's thread alone.

    A connection too many may stay for a moment to be answered; so many such answers are under way at most.

    Parameters
    ----------
    limit : connections open at once
    """

    __slots__ = ("limit", "open", "refused", "refusing")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.refused = 0
        self.refusing = 0

    def acquire(self) -> bool:
        """Count a connection if there is room for it. Returns whether there was; then `release` it once."""
        if self.open >= self.limit:
            self.refused += 1
            return False
        self.open += 1
        return True

    def release(self) -> None:
        """Count a connection that was acquired no more."""
        self.open -= 1

    def begin_refusal(self) -> bool:
        """Whether a connection too many may stay to be answered; then `end_refusal` once it is closed."""
        if self.refusing >= MAX_REFUSALS:
            return False
        self.refusing += 1
        return True

    def end_refusal(self) -> None:
        """Count a connection that was answered no more."""
        self.refusing -= 1
