"""A short wait after a small batch, for the next chunk of a client that waits for each answer."""

from __future__ import annotations

import asyncio
import time

from app.engine.queue import JobQueue

LINGER_SECONDS = 100e-6  # a client that waits for each answer sends its next chunk within this time
MAX_FAILURES = 3  # after as many waits in a row without a job, only every RETRY_TICKS-th tick waits
RETRY_TICKS = 64


class Linger:
    """Waits for the next job where that is cheaper than to sleep and be woken."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._failures = 0  # waits in a row in which no job came

    async def wait(self, jobs: int, tick: int) -> None:
        """Return as soon as a job is queued, or after `LINGER_SECONDS`.

        After a batch of several jobs there is no wait: it would find the first client's next job and not the
        others', and many small batches cost more than a large one.

        Parameters
        ----------
        jobs : of the last batch
        tick : its number
        """
        if jobs > 1 or (self._failures >= MAX_FAILURES and tick % RETRY_TICKS):
            return
        until = time.perf_counter() + LINGER_SECONDS
        while time.perf_counter() < until:
            if self._queue:
                self._failures = 0
                return
            await asyncio.sleep(0)
        self._failures += 1
