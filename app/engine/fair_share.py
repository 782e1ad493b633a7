"""Limits the jobs of one tenant in flight while other tenants call.

A tick blocks the event loop, so other clients wait for it. A tenant that calls alone may fill the whole
batch, because larger batches have a higher throughput. While others call, at most `share` jobs of each tenant
are in flight. A batch takes no more jobs of the tenant, and its connections are not read until answers were
sent. They resume in the order in which they were stopped. So the delay that a flood causes to other tenants
is bounded, however many connections it has and however much it sends ahead on each.

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

ALONE_SECONDS = 1.0  # a tenant that has not called for this long is not counted as calling
UNLIMITED = sys.maxsize
BULK_SESSIONS_PER_CHUNK = 16  # sessions of a bulk request that together cost about as much as one chunk
CHUNKS_PER_ROUTED_REQUEST = 8  # chunks that together cost about as much as one request to a FastAPI route


class Waiter(Protocol):
    """A connection whose reading is paused."""

    def resume(self) -> None:
        """Continue reading, because there is room for at least one job."""


class FairShare:
    """The limit for each tenant of a server.

    Parameters
    ----------
    share : most jobs of one tenant in flight while others call; 0 for no limit
    clock : seconds, monotonic
    """

    def __init__(self, share: int, clock: Callable[[], float] = monotonic) -> None:
        self.limit = UNLIMITED  # current limit of jobs of one tenant in flight
        self._share = share or UNLIMITED
        self._clock = clock
        self._last: TenantShare | None = None  # share of the tenant that called last
        self._shared_until = 0.0

    @property
    def contended(self) -> bool:
        """Whether several tenants have called within the last second."""
        return self.limit != UNLIMITED

    def record_caller(self, share: TenantShare) -> None:
        """Note that a job of this tenant follows a job of another tenant, or is the first job."""
        if self._last is not None:
            self._shared_until = self._clock() + ALONE_SECONDS
            self.limit = self._share
        self._last = share

    def update_limit(self) -> None:
        """Remove the limit when one tenant has been alone for a while. Called once a tick."""
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
        """Whether no more requests of this tenant should be read now."""
        return self.in_flight >= self._fair_share.limit

    @property
    def room(self) -> int:
        """Number of chunks and commands that may be added to those in flight."""
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
        """Count other work, such as a routed request, until the next iteration of the event loop."""
        self.acquire(count)
        asyncio.get_running_loop().call_soon(self.release, count)

    def add_waiter(self, connection: Waiter) -> None:
        """Call the connection's `resume` later, in order.

        Allowed only while the share is full: then an answer is still to be sent, and calls it.
        """
        self._waiters.append(connection)

    def _schedule(self) -> None:
        self._resuming = True
        asyncio.get_running_loop().call_soon(self._resume_waiters)

    def _resume_waiters(self) -> None:
        """Resume waiting connections while there is room. Each may take room for several jobs or none."""
        self._resuming = False
        for _ in range(min(len(self._waiters), self._fair_share.limit)):
            if self.full:
                return
            try:
                self._waiters.popleft().resume()
            except Exception:
                log.exception("a connection could not be resumed; the connections behind it are resumed")
        if self._waiters and not self.full:
            self._schedule()
