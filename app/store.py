"""Where committed sessions live, and what remains of those that are gone.

A store is told of a wave in one `commit`: all of it is kept or none. A store that `writes_through` is
told of every change, because it must survive the process; `MemoryStore` is told only of sessions that
leave the slab, because the slab is in the same memory and would otherwise be kept twice.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sortedcontainers import SortedDict


@dataclass(frozen=True, slots=True)
class Record:
    """A session at rest. `body` is what `app.rows.pack` made of it."""

    session: str
    fingerprint: str
    deadline: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is remembered of a session that is gone."""

    session: str
    position: int
    why: Literal["expired", "deleted"]
    buried: float  # seconds since 1970


class Store(Protocol):
    """What the engine needs of a store. Calls come one at a time, in the order of the ticks."""

    writes_through: bool
    """Whether every change is committed, or only what leaves the slab."""
    blocks: bool
    """Whether calls may wait for a device: the engine then makes them from a thread."""

    def commit(self, records: Sequence[Record], tombstones: Sequence[Tombstone]) -> None:
        """Keep all of this or, raising `StoreFailed`, none. A tombstone removes its session's record."""

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone]]:
        """Those of these sessions that are here, and what remains of those that are gone.

        A store that does not write through hands its records over and keeps them no longer.
        """

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        """(id, fingerprint) of up to `limit` sessions whose ids sort behind `after`, in order."""

    def expired(self, now: float, limit: int) -> list[str]:
        """Up to `limit` sessions whose deadline has passed."""

    def __len__(self) -> int:
        """How many sessions are kept here."""

    def close(self) -> None: ...


class MemoryStore:
    """Sessions that left the slab, in this process's memory.

    Parameters
    ----------
    most_tombstones, tombstone_seconds : the oldest are forgotten beyond either
    """

    writes_through = False
    blocks = False

    def __init__(
        self, most_tombstones: int, tombstone_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._most_tombstones = most_tombstones
        self._tombstone_seconds = tombstone_seconds
        self._clock = clock
        self._records: SortedDict[str, Record] = SortedDict()
        self._deadlines: list[tuple[float, str]] = []  # a heap; entries of sessions that left are passed over
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()

    def commit(self, records: Sequence[Record], tombstones: Sequence[Tombstone]) -> None:
        for record in records:
            self._records[record.session] = record
            self._tombstones.pop(record.session, None)
            if record.deadline != float("inf"):
                heapq.heappush(self._deadlines, (record.deadline, record.session))
        for tombstone in tombstones:
            self._records.pop(tombstone.session, None)
            self._tombstones.pop(tombstone.session, None)
            self._tombstones[tombstone.session] = tombstone
        self._forget_old_tombstones()

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone]]:
        self._forget_old_tombstones()
        records, tombstones = [], {}
        for session in sessions:
            if session in self._records:
                records.append(self._records.pop(session))
            elif session in self._tombstones:
                tombstones[session] = self._tombstones[session]
        return records, tombstones

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        keys = self._records.irange(after, inclusive=(False, True))
        return [(key, self._records[key].fingerprint) for key, _ in zip(keys, range(limit), strict=False)]

    def expired(self, now: float, limit: int) -> list[str]:
        late: list[str] = []
        while self._deadlines and self._deadlines[0][0] < now and len(late) < limit:
            deadline, session = heapq.heappop(self._deadlines)
            record = self._records.get(session)
            if record is not None and record.deadline == deadline:
                late.append(session)
        return late

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        """Nothing outlives the process."""

    def _forget_old_tombstones(self) -> None:
        oldest = self._clock() - self._tombstone_seconds
        while self._tombstones:
            first = next(iter(self._tombstones.values()))
            if len(self._tombstones) <= self._most_tombstones and first.buried >= oldest:
                return
            self._tombstones.popitem(last=False)
