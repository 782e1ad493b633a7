"""After a small batch the engine waits briefly for the next job, but only where that pays."""

import asyncio

import numpy as np
import pytest

from app.engine import linger
from app.engine.linger import Linger
from app.engine.queue import JobQueue
from app.jobs.jobs import Advance

pytestmark = pytest.mark.anyio

FOREVER = 60.0
SKIPPED_TICK, TRIED_TICK = 1, linger.RETRY_TICKS


async def test_the_engine_lingers_only_while_the_next_jobs_come_in_time(monkeypatch):
    queue = JobQueue()
    waiting, loop = Linger(lambda: bool(queue)), asyncio.get_running_loop()

    async def finds_a_job(seconds: float, tick: int, session: str = "", jobs: int = 1) -> bool:
        monkeypatch.setattr(linger, "LINGER_SECONDS", seconds)
        if session:
            loop.call_soon(queue.add, Advance(session, np.zeros((1, 1), np.float32)))
        await asyncio.wait_for(waiting.wait(jobs, tick), 5.0)
        return bool(queue.take(1))

    assert await finds_a_job(FOREVER, SKIPPED_TICK, "a")
    for _ in range(linger.MAX_FAILURES):
        assert not await finds_a_job(0.0, SKIPPED_TICK)
    assert not await finds_a_job(FOREVER, SKIPPED_TICK)  # returns at once, though no job comes
    assert not await finds_a_job(FOREVER, TRIED_TICK, jobs=2)
    assert await finds_a_job(FOREVER, TRIED_TICK, "b")
    assert await finds_a_job(FOREVER, SKIPPED_TICK, "c")
