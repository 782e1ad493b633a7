"""Where committed sessions live, and what remains of those that are gone.

A store is told of a wave in one `commit`: all of it is kept or none. A store that `writes_through` is
told of every change, because it must survive the process; `memory.MemoryStore` is told only of sessions that
leave the slab, because the slab is in the same memory and would otherwise be kept twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from app.errors import CarryoverError


@dataclass(frozen=True, slots=True)
class Record:
    """A session at rest. `body` is what `app.rows.pack` made of it."""

    session: str
    fingerprint: str
    deadline: float  # seconds since 1970; infinity: never
    body: bytes
    position: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Sessions of one model at rest, in columns: a commit costs some objects, not some a session."""

    fingerprint: str
    sessions: Sequence[str]
    positions: Sequence[int]
    deadlines: Sequence[float]
    bodies: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.sessions)

    def record(self, i: int) -> Record:
        """One of them by itself."""
        return Record(
            self.sessions[i], self.fingerprint, self.deadlines[i], self.bodies[i], self.positions[i]
        )

    def records(self) -> Iterator[Record]:
        """Each of them by itself."""
        return map(self.record, range(len(self)))

    def without(self, sessions: Collection[str]) -> Block:
        """The others."""
        kept = [i for i, session in enumerate(self.sessions) if session not in sessions]
        columns = (self.sessions, self.positions, self.deadlines, self.bodies)
        return Block(self.fingerprint, *([column[i] for i in kept] for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is remembered of a session that is gone."""

    session: str
    position: int
    reason: Literal["expired", "deleted"]
    removed: float  # seconds since 1970


Conflicts = Mapping[str, CarryoverError | None]
"""Sessions that are not as the engine has them: None where another replica was ahead, or what failed."""

NO_CONFLICTS: Conflicts = {}


class Store(Protocol):
    """What the engine needs of a store. Calls come one at a time, in the order of the ticks."""

    writes_through: bool
    """Whether every change is committed, or only what leaves the slab."""
    may_block: bool
    """Whether calls may wait for a device: the engine then makes them from a thread."""
    tend_seconds: float
    """How often `tend` is called at least; 0: there is nothing to tend."""
    tend_due: bool
    """Whether `tend` should be called behind this tick's replies already."""

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        """Keep all of this or, raising `StoreFailed`, none. A tombstone removes its session's record.
        No session is in it twice.

        Returns those that were not kept after all: none, where nobody else writes to the store.
        """

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        """Those of these sessions that are here, and why others are not.

        A store that does not write through hands its records over and keeps them no longer.
        """

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        """(id, fingerprint) of up to `limit` sessions whose ids sort behind `after`, in order."""

    def expired(self, now: float, limit: int) -> list[str]:
        """Up to `limit` sessions whose deadline has passed."""

    def __len__(self) -> int:
        """How many sessions are kept here."""

    def tend(self) -> None:
        """A bounded piece of upkeep, never a part of a commit.

        Raises
        ------
        StoreFailed : and, for as long as it does, commits are not to be expected to succeed
        """

    def close(self) -> None:
        """Keep what is not kept yet, and let go of the device."""


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that other replicas write to as well: what is resident may be out of date.

    It remembers each session's revision from `load` or `commit` on, until it is told to `forget`, and commits
    a session only where that is still the one in the store: atomically a session, not a wave. A commit that
    raises `StoreFailed` may have been kept in part.
    """

    fenced: int
    """Commits refused because another replica was ahead."""

    def confirm(self, sessions: Sequence[str]) -> Conflicts:
        """Those of these sessions that are no more as they were loaded or committed last."""

    def forget(self, sessions: Iterable[str]) -> None:
        """These are resident no longer."""
