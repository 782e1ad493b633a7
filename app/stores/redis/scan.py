"""A walk over every key of every server, a slice at a time, to find expired sessions and count the others."""

from __future__ import annotations

from app.stores.redis import values
from app.stores.redis.connections import Servers, scan_keys

SLICE = 1000  # keys of one step
PATTERN = values.key("*")


class KeyScan:
    """A walk over every key of every server, a slice at a time."""

    def __init__(self) -> None:
        self.live_count = 0
        self._server = 0
        self._cursor = 0
        self._servers = 1

    def next_sessions(self, servers: Servers) -> list[str]:
        """The sessions of the next keys."""
        links = servers.primaries()
        self._servers = len(links)
        self._server %= self._servers
        self._cursor, found = scan_keys(links[self._server], PATTERN, self._cursor, SLICE)
        if not self._cursor:
            self._server += 1
        return [values.session_of(name) for name in found]

    def is_complete(self) -> bool:
        """Whether the walk has passed every key."""
        return self._server >= self._servers

    def restart(self) -> int:
        """Begin the next walk. Returns how many sessions this one has counted."""
        live_count, self.live_count, self._server = self.live_count, 0, 0
        return live_count
