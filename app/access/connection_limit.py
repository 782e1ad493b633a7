"""How many connections of HTTP and of sockets may be open at once; gRPC's core counts its own."""

from __future__ import annotations


class ConnectionLimit:
    """Counts open connections of HTTP and of sockets. Used by the event loop's thread alone.

    Parameters
    ----------
    limit : connections open at once
    """

    __slots__ = ("limit", "open", "refused")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.refused = 0

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
