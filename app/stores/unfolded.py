"""What is committed and not folded into the tables yet, by session: where every read looks first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sortedcontainers import SortedSet

from app.stores import Record, Tombstone
from app.stores.journal import NEVER, Entry


@dataclass(frozen=True, slots=True)
class Written:
    """A wave in the journal."""

    sequence: int
    sessions: Sequence[str]
    size: int  # bytes
    buried: int  # number of the last tombstone up to here


class Unfolded:
    """The newest entry of each session, and the waves that they were written in, oldest first."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.waves: deque[Written] = deque()
        self.size = 0  # bytes of those waves
        self.fresh: SortedSet[str] = SortedSet()  # alive here and not in the table
        self.buried: set[str] = set()  # gone here, and still in the table
        self.mortal: dict[str, float] = {}  # deadlines of those alive here that have one

    def put(self, entry: Entry) -> int:
        """The newest of its session from now on. Returns by how much the number of sessions grew."""
        session = entry.what.session
        before = self.entries.get(session)
        if before is not None and _immortal(before) and _immortal(entry):
            self.entries[session] = entry  # as nearly always: nothing else changes
            return 0
        alive = entry.in_table if before is None else isinstance(before.what, Record)
        self._drop(session)
        self.entries[session] = entry
        if isinstance(entry.what, Tombstone):
            if entry.in_table:
                self.buried.add(session)
            return -int(alive)
        if not entry.in_table:
            self.fresh.add(session)
        if entry.what.deadline != NEVER:
            self.mortal[session] = entry.what.deadline
        return 1 - int(alive)

    def wrote(self, wave: Written) -> None:
        """The wave is in the journal."""
        self.waves.append(wave)
        self.size += wave.size

    def oldest(self, most_records: int, most_waves: int) -> tuple[list[Written], list[Entry]]:
        """Some of the oldest waves, at least one, and those of their entries that are still the newest."""
        waves: list[Written] = []
        moving: list[Entry] = []
        for wave in self.waves:
            waves.append(wave)
            entries = (self.entries.get(session) for session in wave.sessions)
            moving += [entry for entry in entries if entry is not None and entry.sequence == wave.sequence]
            if len(moving) >= most_records or len(waves) >= most_waves:
                break
        return waves, moving

    def folded(self, waves: Sequence[Written], moved: Iterable[Entry]) -> None:
        """These are in the tables, and no longer here."""
        for entry in moved:
            self._drop(entry.what.session)
            del self.entries[entry.what.session]
        for wave in waves:
            self.waves.popleft()
            self.size -= wave.size

    def _drop(self, session: str) -> None:
        self.fresh.discard(session)
        self.buried.discard(session)
        self.mortal.pop(session, None)


def _immortal(entry: Entry) -> bool:
    return isinstance(entry.what, Record) and entry.what.deadline == NEVER
