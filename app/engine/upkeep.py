"""Upkeep beside the ticks: sessions that have idled too long expire, and the store is tended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from app.engine.store_calls import StoreCalls
from app.errors import StoreFailed
from app.jobs.jobs import Expire, Job
from app.session.slab import Slab

log = logging.getLogger("carryover.engine")

SWEEP_SECONDS = 1.0
EXPIRED_AT_REST = 1000  # sessions in the store that one sweep expires
SWEEP_ROWS = 65_536  # looked at for expiry in one sweep of one slab: about a third of a millisecond


class Upkeep:
    """Tasks that run for as long as the engine does.

    Parameters
    ----------
    call_store : the store, and how to call it
    slabs : of the resident sessions, by fingerprint
    clock : seconds since 1970
    enqueue : queues a job for the engine
    batch_sessions : the most sessions of one job
    """

    def __init__(
        self,
        call_store: StoreCalls,
        slabs: Mapping[str, Slab],
        clock: Callable[[], float],
        enqueue: Callable[[Job], None],
        batch_sessions: int,
    ) -> None:
        self.failure = ""  # what the store failed with, until its upkeep succeeds
        self.store = call_store.store
        self._call = call_store
        self._slabs = slabs
        self._clock = clock
        self._enqueue = enqueue
        self._batch_sessions = batch_sessions
        self._swept: dict[str, int] = {}  # the row that the next sweep of a slab begins at
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin on the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._sweep(), name="engine-sweep")]
        if self.store.tend_seconds:
            self._tasks.append(loop.create_task(self._tend_regularly(), name="engine-tend"))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _sweep(self) -> None:
        """Bury what has idled too long, a slice at a time, for as long as the engine runs."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._clock()
            late = await self._expired_at_rest(now)
            for fingerprint, slab in self._slabs.items():
                start = self._swept.get(fingerprint, 0)
                names, self._swept[fingerprint] = slab.expired(now, start, SWEEP_ROWS)
                late += names
            late = list(dict.fromkeys(late))  # a store that writes through tells of resident ones, too
            most = self._batch_sessions
            for i in range(0, len(late), most):
                self._enqueue(Expire(late[i : i + most]))

    async def _expired_at_rest(self, now: float) -> list[str]:
        try:
            late: list[str] = await self._call(self.store.expired, now, EXPIRED_AT_REST)
        except StoreFailed as error:
            self.failure = error.detail
            return []
        return late

    async def _tend_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.store.tend_seconds)
            await self.tend()

    async def tend(self) -> None:
        """Let the store do its upkeep, which tells whether it is well."""
        try:
            await self._call(self.store.tend)
        except StoreFailed as error:
            if not self.failure:
                log.error("the store ails: %s", error)
            self.failure = error.detail
        else:
            if self.failure:
                log.warning("the store is well again")
            self.failure = ""
