"""A walk over every key of every server, a slice at a time: finds the expired, counts the living."""

from __future__ import annotations

from app.stores.redis import values
from app.stores.redis.connections import Servers, names

SLICE = 1000  # keys that one look passes
PATTERN = values.key("*")


class Census:
    """A walk over every key of every server, a slice at a time, which counts the living."""

    def __init__(self) -> None:
        self.living = 0
        self._server = 0
        self._cursor = 0
        self._servers = 1

    def slice(self, servers: Servers) -> list[str]:
        """The sessions of the next keys."""
        links = servers.primaries()
        self._servers = len(links)
        self._server %= self._servers
        self._cursor, found = names(links[self._server], PATTERN, self._cursor, SLICE)
        if not self._cursor:
            self._server += 1
        return [values.session_of(name) for name in found]

    def complete(self) -> bool:
        """Whether every key was passed."""
        return self._server >= self._servers

    def start_anew(self) -> int:
        """How many lived; the next walk begins."""
        living, self.living, self._server = self.living, 0, 0
        return living
