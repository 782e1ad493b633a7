"""Bounds how much of one tenant may be in flight while other tenants call.

A tick holds the event loop, and other clients wait for it. A tenant that calls alone may fill it: larger
batches serve more. While others call, at most `share` jobs of each tenant are in flight: a batch takes no
more of it, and its connections are not read on until answers leave. They wait in the order in which they
were stopped. So the delay that a flood causes to others is bounded, however many connections it has and
however much it sends ahead on each.

Everything here belongs to the event loop's thread.
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

ALONE_SECONDS = 1.0  # after which a tenant that has not called is left out of account
UNLIMITED = sys.maxsize
BULK_SESSIONS_PER_CHUNK = 16  # sessions of a bulk request that cost about as much as one single chunk
CHUNKS_PER_ROUTED_REQUEST = 8  # chunks that cost about as much as a request on a route of the web framework


class Waiter(Protocol):
    """A connection that is not read for now."""

    def resume(self) -> None:
        """Read on: there is room for at least one job."""


class FairShare:
    """The bound that all tenants of a server share.

    Parameters
    ----------
    share : jobs of one tenant in flight while others call; 0 for no bound
    clock : seconds, monotonic
    """

    def __init__(self, share: int, clock: Callable[[], float] = monotonic) -> None:
        self.limit = UNLIMITED  # of jobs of one tenant in flight, now
        self._share = share or UNLIMITED
        self._clock = clock
        self._last: TenantShare | None = None  # that called last
        self._shared_until = 0.0

    @property
    def contended(self) -> bool:
        """Whether several tenants have called within the last second."""
        return self.limit != UNLIMITED

    def record_caller(self, share: TenantShare) -> None:
        """Note that a job of this tenant follows one of another, or is the first."""
        if self._last is not None:
            self._shared_until = self._clock() + ALONE_SECONDS
            self.limit = self._share
        self._last = share

    def update_limit(self) -> None:
        """Lift the bound when one tenant has been alone for a while; called once a tick."""
        if self.limit != UNLIMITED and self._clock() >= self._shared_until:
            self.limit = UNLIMITED


class TenantShare:
    """What one tenant has in flight, with all its keys together."""

    __slots__ = ("__weakref__", "_fair_share", "_resuming", "_waiters", "in_flight", "tenant")

    def __init__(self, fair_share: FairShare, tenant: str) -> None:
        self._fair_share = fair_share
        self.tenant = tenant
        self.in_flight = 0  # chunks and commands that wait for an answer
        self._waiters: deque[Waiter] = deque()
        self._resuming = False  # whether `_resume_waiters` is scheduled

    @property
    def full(self) -> bool:
        """Whether no more of this tenant should be read now."""
        return self.in_flight >= self._fair_share.limit

    @property
    def room(self) -> int:
        """Chunks and commands that may be queued beside those in flight."""
        return max(0, self._fair_share.limit - self.in_flight)

    def acquire(self, count: int) -> None:
        """Count chunks or commands that were queued."""
        self.in_flight += count
        if self._fair_share._last is not self:
            self._fair_share.record_caller(self)

    def release(self, count: int) -> None:
        """Count chunks or commands that were answered."""
        self.in_flight -= count
        if self._waiters and not self._resuming:
            self._schedule()

    def acquire_briefly(self, count: int) -> None:
        """Count work that is no job, such as a routed request, until the event loop's next iteration."""
        self.acquire(count)
        asyncio.get_running_loop().call_soon(self.release, count)

    def add_waiter(self, connection: Waiter) -> None:
        """Have `resume` called in order. Only while the share is full, so that an answer is yet to leave."""
        self._waiters.append(connection)

    def _schedule(self) -> None:
        self._resuming = True
        asyncio.get_running_loop().call_soon(self._resume_waiters)

    def _resume_waiters(self) -> None:
        """Resume as many as there is room for; each may take room for several jobs, or for none."""
        self._resuming = False
        for _ in range(min(len(self._waiters), self._fair_share.limit)):
            if self.full:
                return
            try:
                self._waiters.popleft().resume()
            except Exception:
                log.exception("a connection could not be resumed; those behind it go on")
        if self._waiters and not self.full:
            self._schedule()
