"""What is committed and not folded into the tables yet, by session: where every read looks first.

A wave's blocks stay as they were told. A session is a place in one of them, so that a wave of sessions that
are all known and alive, as nearly every wave is, costs one update of a dictionary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

from sortedcontainers import SortedSet

from app.stores.sqlite.journal import NEVER, RecordRef, Removal, SealedBlock


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A wave in the journal."""

    sequence: int
    blocks: Sequence[SealedBlock]
    removals: Sequence[Removal]
    size: int  # bytes
    removed: int  # number of the last tombstone up to here


class MemTable:
    """The newest of each session, alive or dead, and the waves that they were written in, oldest first."""

    def __init__(self) -> None:
        self.alive: dict[str, RecordRef] = {}
        self.dead: dict[str, Removal] = {}
        self.without_row: set[str] = (
            set()
        )  # those of either that the table of sessions has no row of, however old
        self.new_sessions: SortedSet[str] = SortedSet()  # alive here and strange
        self.deadlines: dict[str, float] = {}  # deadlines of those alive here that have one
        self.entries: deque[JournalEntry] = deque()
        self.size = 0  # bytes of those waves

    def unknown(self, sessions: Iterable[str]) -> set[str]:
        """Those of these that nothing is here of."""
        return set(sessions) - self.alive.keys() - self.dead.keys()

    def count_dead_rows(self) -> int:
        """How many are dead here, and still in the table."""
        return sum(session not in self.without_row for session in self.dead)

    def put(self, one: SealedBlock) -> int:
        """The newest of their sessions from now on. Returns by how much the number of sessions grew."""
        block = one.block
        names = set(block.sessions)
        grew = self._rise(names - self.alive.keys()) if not names <= self.alive.keys() else 0
        self.alive.update(zip(block.sessions, record_refs(one), strict=True))
        if self.deadlines:
            for session in names & self.deadlines.keys():
                del self.deadlines[session]
        if one.deadlines.count(None) < len(block):
            told = zip(block.sessions, block.deadlines, strict=True)
            self.deadlines.update((session, deadline) for session, deadline in told if deadline != NEVER)
        return grew

    def remove(self, removal: Removal) -> int:
        """The newest of its session from now on. Returns by how much the number of sessions grew."""
        session = removal.tombstone.session
        was_dead = session in self.dead
        was_alive = session in self.alive or not (was_dead or session in self.without_row)
        self.dead[session] = removal
        self.alive.pop(session, None)
        self.deadlines.pop(session, None)
        self.new_sessions.discard(session)
        return -int(was_alive)

    def add_entry(self, entry: JournalEntry) -> None:
        """The wave is in the journal."""
        self.entries.append(entry)
        self.size += entry.size

    def oldest(
        self, most_records: int, most_entries: int
    ) -> tuple[list[JournalEntry], list[RecordRef], list[Removal]]:
        """Some of the oldest waves, at least one, and what in them is still the newest of its session."""
        entries: list[JournalEntry] = []
        records: list[RecordRef] = []
        removals: list[Removal] = []
        for entry in self.entries:
            entries.append(entry)
            for one in entry.blocks:
                places = map(self.alive.get, one.block.sessions)
                records += [place for place in places if place is not None and place[0] is one]
            removals += [
                removal for removal in entry.removals if self.dead.get(removal.tombstone.session) is removal
            ]
            if len(records) + len(removals) >= most_records or len(entries) >= most_entries:
                break
        return entries, records, removals

    def folded(
        self, entries: Sequence[JournalEntry], records: Iterable[RecordRef], removals: Iterable[Removal]
    ) -> None:
        """These are in the tables, and no longer here."""
        risen = [one.block.sessions[i] for one, i in records]
        buried = [removal.tombstone.session for removal in removals]
        for session in risen:
            del self.alive[session]
            self.new_sessions.discard(session)
            self.deadlines.pop(session, None)
        for session in buried:
            del self.dead[session]
        self.without_row.difference_update(risen, buried)
        for entry in entries:
            self.entries.popleft()
            self.size -= entry.size

    def _rise(self, sessions: set[str]) -> int:
        """These, which were not alive here, are. Returns how many were not alive in the table either."""
        back = sessions & self.dead.keys()
        for session in back:
            del self.dead[session]
        new = sessions & self.without_row
        self.new_sessions.update(new)
        return len(back | new)


def record_refs(one: SealedBlock) -> Iterable[RecordRef]:
    """The place of each record of a block."""
    return zip(repeat(one), range(len(one.block)), strict=False)
