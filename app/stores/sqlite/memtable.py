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

from app.stores.sqlite.journal import NEVER, Grave, Place, Sealed


@dataclass(frozen=True, slots=True)
class Written:
    """A wave in the journal."""

    sequence: int
    blocks: Sequence[Sealed]
    graves: Sequence[Grave]
    size: int  # bytes
    buried: int  # number of the last tombstone up to here


class Unfolded:
    """The newest of each session, alive or dead, and the waves that they were written in, oldest first."""

    def __init__(self) -> None:
        self.alive: dict[str, Place] = {}
        self.dead: dict[str, Grave] = {}
        self.strange: set[str] = (
            set()
        )  # those of either that the table of sessions has no row of, however old
        self.fresh: SortedSet[str] = SortedSet()  # alive here and strange
        self.mortal: dict[str, float] = {}  # deadlines of those alive here that have one
        self.waves: deque[Written] = deque()
        self.size = 0  # bytes of those waves

    def unknown(self, sessions: Iterable[str]) -> set[str]:
        """Those of these that nothing is here of."""
        return set(sessions) - self.alive.keys() - self.dead.keys()

    def doomed(self) -> int:
        """How many are dead here, and still in the table."""
        return sum(session not in self.strange for session in self.dead)

    def put(self, one: Sealed) -> int:
        """The newest of their sessions from now on. Returns by how much the number of sessions grew."""
        block = one.block
        names = set(block.sessions)
        grew = self._rise(names - self.alive.keys()) if not names <= self.alive.keys() else 0
        self.alive.update(zip(block.sessions, place_each(one), strict=True))
        if self.mortal:
            for session in names & self.mortal.keys():
                del self.mortal[session]
        if one.deadlines.count(None) < len(block):
            told = zip(block.sessions, block.deadlines, strict=True)
            self.mortal.update((session, deadline) for session, deadline in told if deadline != NEVER)
        return grew

    def bury(self, grave: Grave) -> int:
        """The newest of its session from now on. Returns by how much the number of sessions grew."""
        session = grave.tombstone.session
        was_dead = session in self.dead
        was_alive = session in self.alive or not (was_dead or session in self.strange)
        self.dead[session] = grave
        self.alive.pop(session, None)
        self.mortal.pop(session, None)
        self.fresh.discard(session)
        return -int(was_alive)

    def wrote(self, wave: Written) -> None:
        """The wave is in the journal."""
        self.waves.append(wave)
        self.size += wave.size

    def oldest(self, most_records: int, most_waves: int) -> tuple[list[Written], list[Place], list[Grave]]:
        """Some of the oldest waves, at least one, and what in them is still the newest of its session."""
        waves: list[Written] = []
        records: list[Place] = []
        graves: list[Grave] = []
        for wave in self.waves:
            waves.append(wave)
            for one in wave.blocks:
                places = map(self.alive.get, one.block.sessions)
                records += [place for place in places if place is not None and place[0] is one]
            graves += [grave for grave in wave.graves if self.dead.get(grave.tombstone.session) is grave]
            if len(records) + len(graves) >= most_records or len(waves) >= most_waves:
                break
        return waves, records, graves

    def folded(self, waves: Sequence[Written], records: Iterable[Place], graves: Iterable[Grave]) -> None:
        """These are in the tables, and no longer here."""
        risen = [one.block.sessions[i] for one, i in records]
        buried = [grave.tombstone.session for grave in graves]
        for session in risen:
            del self.alive[session]
            self.fresh.discard(session)
            self.mortal.pop(session, None)
        for session in buried:
            del self.dead[session]
        self.strange.difference_update(risen, buried)
        for wave in waves:
            self.waves.popleft()
            self.size -= wave.size

    def _rise(self, sessions: set[str]) -> int:
        """These, which were not alive here, are. Returns how many were not alive in the table either."""
        back = sessions & self.dead.keys()
        for session in back:
            del self.dead[session]
        new = sessions & self.strange
        self.fresh.update(new)
        return len(back | new)


def place_each(one: Sealed) -> Iterable[Place]:
    """The place of each record of a block."""
    return zip(repeat(one), range(len(one.block)), strict=False)
