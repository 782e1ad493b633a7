"""How much of one tenant may be under way at once while others call, too.

A tick holds the event loop, and whoever calls meanwhile waits for it. Alone, a tenant may fill it: larger
waves serve more. Beside others its lane is `share` jobs wide: a wave takes no more of it, and its connections
are read no further while so many are under way. They wait in a line, and are read on by turns as answers
leave. So what a flood does to others is bounded, however many connections it has, and however much it sends
ahead on each.

All of it belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

log = logging.getLogger("carryover.tenancy")

ALONE_SECONDS = 1.0  # after which a tenant that was not heard is no longer thought of
ALONE = sys.maxsize
BULK = 16  # sessions of a bulk request that cost about what a chunk of its own does
ROUTED = 8  # chunks that cost about what a request does which goes by the router


class Waits(Protocol):
    """A connection that is read no further for now."""

    def go_on(self) -> None:
        """Read on: at least one job's room is there."""


class Lanes:
    """The lanes of a server's tenants.

    Parameters
    ----------
    share : jobs of one tenant under way while others call; 0 does not bound them
    clock : seconds, never going back
    """

    def __init__(self, share: int, clock: Callable[[], float] = monotonic) -> None:
        self.width = ALONE  # of every lane, now
        self._share = share or ALONE
        self._clock = clock
        self._last: Lane | None = None  # who called last
        self._shared_until = 0.0

    @property
    def shared(self) -> bool:
        """Whether several tenants have called of late."""
        return self.width != ALONE

    def heard(self, lane: Lane) -> None:
        """A job of this lane comes behind one of another, or is the first."""
        if self._last is not None:
            self._shared_until = self._clock() + ALONE_SECONDS
            self.width = self._share
        self._last = lane

    def look(self) -> None:
        """Widen the lanes where one tenant has been alone for a while; asked once a tick."""
        if self.width != ALONE and self._clock() >= self._shared_until:
            self.width = ALONE


class Lane:
    """One tenant's way to the engine, whichever of its keys it comes with."""

    __slots__ = ("__weakref__", "_called", "_lanes", "_line", "tenant", "under_way")

    def __init__(self, lanes: Lanes, tenant: str) -> None:
        self._lanes = lanes
        self.tenant = tenant
        self.under_way = 0  # sessions' turns that wait for an answer
        self._line: deque[Waits] = deque()
        self._called = False

    @property
    def full(self) -> bool:
        """Whether no more of it should be read now."""
        return self.under_way >= self._lanes.width

    def enter(self, count: int) -> None:
        """So many sessions' turns were queued."""
        self.under_way += count
        if self._lanes._last is not self:
            self._lanes.heard(self)

    def leave(self, count: int) -> None:
        """So many were answered."""
        self.under_way -= count
        if self._line and not self._called:
            self._call()

    def pass_by(self, count: int) -> None:
        """Take the room of so many for this turn of the event loop only: by something that is no job."""
        self.enter(count)
        asyncio.get_running_loop().call_soon(self.leave, count)

    def wait(self, connection: Waits) -> None:
        """Have `go_on` called in turn. Only of a full lane, whose answers are yet to leave."""
        self._line.append(connection)

    def _call(self) -> None:
        self._called = True
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Read on as many as there is room for; each may take more than one job's, or none at all."""
        self._called = False
        for _ in range(min(len(self._line), self._lanes.width)):
            if self.full:
                return
            try:
                self._line.popleft().go_on()
            except Exception:
                log.exception("a connection could not be read on; those behind it go on")
        if self._line and not self.full:
            self._call()
