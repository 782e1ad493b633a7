"""A short wait after a small batch, for the next chunk of a client that waits for each answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LINGER_SECONDS = 100e-6  # longest wait; a client that waits for each answer sends its next chunk sooner
MAX_FAILURES = 3  # after this many waits in a row without a job, only every RETRY_TICKS-th tick waits
RETRY_TICKS = 64


class Linger:
    """Waits for the next job where that is cheaper than to sleep and be woken.

    Parameters
    ----------
    has_work : returns whether a job is waiting, or a chunk has arrived
    """

    def __init__(self, has_work: Callable[[], bool]) -> None:
        self._has_work = has_work
        self._failures = 0  # number of waits in a row in which no job came

    async def wait(self, requests: int, tick: int) -> None:
        """Return as soon as there is work, or after `LINGER_SECONDS`.

        After a batch of several requests there is no wait: it would find the first client's next request and
        not the others', and many small batches cost more than a large one.

        Parameters
        ----------
        requests : number of requests in the last batch
        tick : number of the last tick
        """
        if requests > 1 or (self._failures >= MAX_FAILURES and tick % RETRY_TICKS):
            return
        until = time.perf_counter() + LINGER_SECONDS
        while time.perf_counter() < until:
            if self._has_work():
                self._failures = 0
                return
            await asyncio.sleep(0)
        self._failures += 1
