"""Work beside the ticks: expires idle sessions, and calls the store's upkeep."""

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
STORED_PER_SWEEP = 1000  # most sessions in the store that one sweep expires
ROWS_PER_SWEEP = 65_536  # rows of each slab that one sweep tests; takes about a third of a millisecond


class Upkeep:
    """Tasks that run for as long as the engine does.

    Parameters
    ----------
    call_store : calls a method of the store, at once or from a thread
    slabs : slabs of the resident sessions, by fingerprint
    clock : seconds since 1970
    enqueue : queues a job for the engine
    max_sessions : limit of sessions in one job
    """

    def __init__(
        self,
        call_store: StoreCalls,
        slabs: Mapping[str, Slab],
        clock: Callable[[], float],
        enqueue: Callable[[Job], None],
        max_sessions: int,
    ) -> None:
        self.failure = ""  # error of the store; empty again once its upkeep succeeds
        self.store = call_store.store
        self._call = call_store
        self._slabs = slabs
        self._clock = clock
        self._enqueue = enqueue
        self._max_sessions = max_sessions
        self._next_row: dict[str, int] = {}  # row at which the next sweep of a slab begins, by fingerprint
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin on the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._sweep(), name="engine-sweep")]
        if self.store.upkeep_seconds:
            self._tasks.append(loop.create_task(self._maintain_regularly(), name="engine-upkeep"))

    def stop(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()

    async def _sweep(self) -> None:
        """Expire idle sessions, a part of them at a time, for as long as the engine runs."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._clock()
            expired = await self._expired_in_store(now)
            for fingerprint, slab in self._slabs.items():
                start = self._next_row.get(fingerprint, 0)
                names, self._next_row[fingerprint] = slab.expired(now, start, ROWS_PER_SWEEP)
                expired += names
            expired = list(dict.fromkeys(expired))  # a store that writes through lists resident sessions too
            for i in range(0, len(expired), self._max_sessions):
                self._enqueue(Expire(expired[i : i + self._max_sessions]))

    async def _expired_in_store(self, now: float) -> list[str]:
        if self.store.no_expiry_before is not None:
            return []
        try:
            expired: list[str] = await self._call(self.store.expired, now, STORED_PER_SWEEP)
        except StoreFailed as error:
            self.failure = error.detail
            return []
        except Exception:
            log.exception("the store could not list what has expired; the next sweep asks again")
            return []
        return expired

    async def _maintain_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.store.upkeep_seconds)
            await self.maintain_store()

    async def maintain_store(self) -> None:
        """Call the store's upkeep, and note whether it succeeded."""
        try:
            await self._call(self.store.tend)
        except StoreFailed as error:
            if not self.failure:
                log.error("the store has failed: %s", error)
            self.failure = error.detail
        except Exception:
            # The tasks that call this go on: otherwise nobody would notice that the store works again.
            if not self.failure:
                log.exception("the store's upkeep raised")
            self.failure = "the upkeep of the store failed; see the server's log"
        else:
            if self.failure:
                log.warning("the store works again")
            self.failure = ""
