"""Stores evicted sessions in this process's memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from sortedcontainers import SortedList

from app.errors import CarryoverError
from app.session.label_index import MAX_CANDIDATES, LabelIndex
from app.session.rows import labels_of
from app.stores import NO_CONFLICTS, Block, Conflicts, NamePage, NamesQuery, Record, Tombstone


class MemoryStore:
    """The sessions that were evicted from the slab.

    Parameters
    ----------
    max_tombstones, tombstone_seconds : tombstones are forgotten if there are more, or if they are older
    """

    writes_through = False
    may_block = False
    upkeep_seconds = 0.0
    upkeep_due = False
    last_saved: float | None = None
    no_expiry_before: float | None = None

    def __init__(
        self, max_tombstones: int, tombstone_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_tombstones = max_tombstones
        self._tombstone_seconds = tombstone_seconds
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._names: dict[str, SortedList[str]] = {}  # of those records, by fingerprint
        self._labels = LabelIndex()
        # Of those that expire. No heap: it would keep an entry each time that a session comes and goes.
        self._deadlines: SortedList[tuple[float, str]] = SortedList()
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        for record in (record for block in blocks for record in block.records()):
            self._put(record)
            self._tombstones.pop(record.session, None)
        for tombstone in tombstones:
            self._pop(tombstone.session)
            self._tombstones.pop(tombstone.session, None)
            self._tombstones[tombstone.session] = tombstone
        self._forget_old_tombstones()
        return NO_CONFLICTS

    def unwritable(self, blocks: Sequence[Block]) -> dict[str, CarryoverError]:  # noqa: ARG002
        return {}  # it keeps records as they are

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        self._forget_old_tombstones()
        records: list[Record] = []
        tombstones: dict[str, Tombstone | CarryoverError] = {}
        for session in sessions:
            if (record := self._pop(session)) is not None:
                records.append(record)
            elif session in self._tombstones:
                tombstones[session] = self._tombstones[session]
        return records, tombstones

    def names(self, query: NamesQuery) -> NamePage:
        if query.labels:
            return self._labelled(query)
        pages = [
            [(name, model) for name in query.first(names)]
            for model, names in self._names.items()
            if query.fingerprint_filter(model)
        ]
        return query.merge(pages)

    def expired(self, now: float, limit: int) -> list[str]:
        late = self._deadlines.irange(maximum=(now, ""), inclusive=(True, False))
        return [session for _, session in islice(late, limit)]

    def save_no_expiry_before(self, before: float | None) -> None:
        self.no_expiry_before = before

    def __len__(self) -> int:
        return len(self._records)

    def tend(self) -> None:
        """Nothing needs upkeep."""

    def close(self) -> None:
        """Nothing outlives the process."""

    def _labelled(self, query: NamesQuery) -> NamePage:
        count = max(query.limit, MAX_CANDIDATES)
        names = self._labels.candidates(query.labels[0], *query.span, count, descending=query.descending)
        records = [self._records[name] for name in names]
        found = [(record.session, record.fingerprint) for record in records if query.accepts(record)]
        return NamePage.of(found, query.limit, names[-1] if len(names) == count else None)

    def _put(self, record: Record) -> None:
        self._pop(record.session)
        self._records[record.session] = record
        self._names.setdefault(record.fingerprint, SortedList()).add(record.session)
        self._labels.add(record.session, labels_of(record.body))
        if record.deadline != float("inf"):
            self._deadlines.add((record.deadline, record.session))

    def _pop(self, session: str) -> Record | None:
        record = self._records.pop(session, None)
        if record is not None:
            names = self._names[record.fingerprint]
            names.remove(session)
            self._labels.remove(session, labels_of(record.body))
            self._deadlines.discard((record.deadline, session))
            if not names:
                del self._names[record.fingerprint]
        return record

    def _forget_old_tombstones(self) -> None:
        oldest = self._clock() - self._tombstone_seconds
        while self._tombstones:
            first = next(iter(self._tombstones.values()))
            if len(self._tombstones) <= self._max_tombstones and first.removed >= oldest:
                return
            self._tombstones.popitem(last=False)
