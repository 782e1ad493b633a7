"""Planted faults: stores that fail, networks that raise, batches that are held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np

from app.engine.arrivals import Arrivals
from app.engine.engine import Engine
from app.errors import CarryoverError, StoreFailed
from app.stores import Block, Conflicts, Record, Tombstone
from app.stores.memory import MemoryStore
from models.forecaster import Forecaster

CURSED = np.float32(-77.5)  # an observation that the planted networks cannot bear


class WritesThrough(MemoryStore):
    """A store that survives the process, without a disk: every change is committed to it, on a thread."""

    writes_through = True
    may_block = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.full = False

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        if self.full:
            raise StoreFailed("no space left on the device")
        return super().commit(blocks, tombstones)

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        records, tombstones = super().load(sessions)
        for record in records:  # it goes on keeping what it hands out
            self._put(record)
        return records, tombstones

    def expired(self, now: float, limit: int) -> list[str]:
        return [name for name, record in self._records.items() if record.deadline < now][:limit]


def forecaster(engine: Engine, model: str = "sine") -> Forecaster:
    return engine.residents.models.current[model].forecaster


def raise_on_curse(forecaster: Forecaster) -> None:
    """Make every pass that contains the cursed observation raise, including its other sessions."""
    advance = forecaster.advance

    def raising(observations: Any, lengths: Any, carries: Any) -> Any:
        if (observations == CURSED).any():
            raise RuntimeError("cursed")
        return advance(observations, lengths, carries)

    forecaster.advance = raising  # type: ignore[method-assign]


def blow_up_on_curse(forecaster: Forecaster, what: str) -> None:
    """Make the cursed observation produce NaN in its session's carry, or infinity in its predictions."""
    advance = forecaster.advance

    def blowing_up(observations: Any, lengths: Any, carries: Any) -> Any:
        predictions, moved = advance(observations, lengths, carries)
        rows = (observations == CURSED).any(axis=1)
        sessions = np.repeat(np.arange(len(lengths)), lengths)[rows]
        if what == "carry":
            moved[sessions, 0] = np.nan
        else:
            predictions[rows] = np.inf
        return predictions, moved

    forecaster.advance = blowing_up  # type: ignore[method-assign]


@asynccontextmanager
async def held(engine: Engine) -> AsyncIterator[asyncio.Event]:
    """Hold back ticks until the event is set: all jobs that wait by then form one batch."""
    tick, release = engine._tick, asyncio.Event()

    async def waiting() -> None:
        await release.wait()
        await tick()

    engine._tick = waiting  # type: ignore[method-assign]
    try:
        yield release
    finally:
        release.set()
        engine._tick = tick  # type: ignore[method-assign]


@contextmanager
def inbox_held(engine: Engine) -> Iterator[None]:
    """Keep what comes in on plain connections from the engine: all of it is submitted together afterwards."""
    sources, engine.arrivals = engine.arrivals, Arrivals()
    try:
        yield
    finally:
        engine.arrivals = sources
        engine.wake()


async def queued(engine: Engine, sessions: Iterable[str]) -> None:
    """Wait until each of these sessions has a waiting job."""
    wanted = set(sessions)
    await until(
        lambda: (
            wanted <= {session for job in engine._backlog.queue.waiting_jobs() for session in job.sessions}
        )
    )


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (the condition is of code that knows nothing of us)
            await asyncio.sleep(0)
