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
UNLIMITED = sys.maxsize
BULK_SESSIONS_PER_CHUNK = 16  # sessions of a bulk request that cost about what a chunk of its own does
CHUNKS_PER_ROUTED_REQUEST = 8  # chunks that cost about what a request does which goes by the router


class Waiter(Protocol):
    """A connection that is read no further for now."""

    def resume(self) -> None:
        """Read on: at least one job's room is there."""


class FairShare:
    """The lanes of a server's tenants.

    Parameters
    ----------
    share : jobs of one tenant under way while others call; 0 does not bound them
    clock : seconds, never going back
    """

    def __init__(self, share: int, clock: Callable[[], float] = monotonic) -> None:
        self.limit = UNLIMITED  # of every lane, now
        self._share = share or UNLIMITED
        self._clock = clock
        self._last: TenantShare | None = None  # who called last
        self._shared_until = 0.0

    @property
    def contended(self) -> bool:
        """Whether several tenants have called of late."""
        return self.limit != UNLIMITED

    def record_caller(self, share: TenantShare) -> None:
        """A job of this lane comes behind one of another, or is the first."""
        if self._last is not None:
            self._shared_until = self._clock() + ALONE_SECONDS
            self.limit = self._share
        self._last = share

    def update_limit(self) -> None:
        """Widen the lanes where one tenant has been alone for a while; asked once a tick."""
        if self.limit != UNLIMITED and self._clock() >= self._shared_until:
            self.limit = UNLIMITED


class TenantShare:
    """One tenant's way to the engine, whichever of its keys it comes with."""

    __slots__ = ("__weakref__", "_called", "_fair_share", "_waiters", "in_flight", "tenant")

    def __init__(self, fair_share: FairShare, tenant: str) -> None:
        self._fair_share = fair_share
        self.tenant = tenant
        self.in_flight = 0  # sessions' turns that wait for an answer
        self._waiters: deque[Waiter] = deque()
        self._called = False

    @property
    def full(self) -> bool:
        """Whether no more of it should be read now."""
        return self.in_flight >= self._fair_share.limit

    def acquire(self, count: int) -> None:
        """So many sessions' turns were queued."""
        self.in_flight += count
        if self._fair_share._last is not self:
            self._fair_share.record_caller(self)

    def release(self, count: int) -> None:
        """So many were answered."""
        self.in_flight -= count
        if self._waiters and not self._called:
            self._call()

    def acquire_briefly(self, count: int) -> None:
        """Take the room of so many for this turn of the event loop only: by something that is no job."""
        self.acquire(count)
        asyncio.get_running_loop().call_soon(self.release, count)

    def add_waiter(self, connection: Waiter) -> None:
        """Have `resume` called in turn. Only of a full lane, whose answers are yet to leave."""
        self._waiters.append(connection)

    def _call(self) -> None:
        self._called = True
        asyncio.get_running_loop().call_soon(self._resume_waiters)

    def _resume_waiters(self) -> None:
        """Read on as many as there is room for; each may take more than one job's, or none at all."""
        self._called = False
        for _ in range(min(len(self._waiters), self._fair_share.limit)):
            if self.full:
                return
            try:
                self._waiters.popleft().resume()
            except Exception:
                log.exception("a connection could not be read on; those behind it go on")
        if self._waiters and not self.full:
            self._call()
