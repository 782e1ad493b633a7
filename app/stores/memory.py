"""Sessions that left the slab, in this process's memory."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from sortedcontainers import SortedDict

from app.errors import CarryoverError
from app.stores import NO_CONFLICTS, Block, Conflicts, Record, Tombstone


class MemoryStore:
    """Sessions that left the slab, in this process's memory.

    Parameters
    ----------
    most_tombstones, tombstone_seconds : the oldest are forgotten beyond either
    """

    writes_through = False
    may_block = False
    tend_seconds = 0.0
    tend_due = False

    def __init__(
        self, most_tombstones: int, tombstone_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._most_tombstones = most_tombstones
        self._tombstone_seconds = tombstone_seconds
        self._clock = clock
        self._records: SortedDict[str, Record] = SortedDict()
        self._deadlines: list[tuple[float, str]] = []  # a heap; entries of sessions that left are passed over
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        for record in (record for block in blocks for record in block.records()):
            self._records[record.session] = record
            self._tombstones.pop(record.session, None)
            if record.deadline != float("inf"):
                heapq.heappush(self._deadlines, (record.deadline, record.session))
        for tombstone in tombstones:
            self._records.pop(tombstone.session, None)
            self._tombstones.pop(tombstone.session, None)
            self._tombstones[tombstone.session] = tombstone
        self._forget_old_tombstones()
        return NO_CONFLICTS

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        self._forget_old_tombstones()
        records: list[Record] = []
        tombstones: dict[str, Tombstone | CarryoverError] = {}
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

    def tend(self) -> None:
        """There is nothing to tend."""

    def close(self) -> None:
        """Nothing outlives the process."""

    def _forget_old_tombstones(self) -> None:
        oldest = self._clock() - self._tombstone_seconds
        while self._tombstones:
            first = next(iter(self._tombstones.values()))
            if len(self._tombstones) <= self._most_tombstones and first.removed >= oldest:
                return
            self._tombstones.popitem(last=False)
