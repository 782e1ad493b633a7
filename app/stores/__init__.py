"""Where committed sessions live, and the tombstones of those that are gone.

A batch reaches a store in one `commit`: all of it is kept or none. A store that `writes_through` gets every
change, because it must survive the process. `memory.MemoryStore` gets only the sessions that are evicted from
the slab. The slab is in the same memory, so that a resident session would be kept twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, runtime_checkable

from sortedcontainers import SortedList

from app.errors import CarryoverError, StepFailed
from app.session.names import id_of, name_range
from app.session.notes import Labels
from app.session.rows import labels_of


@dataclass(frozen=True, slots=True)
class Record:
    """A session as a store keeps it. `body` comes from `session.rows.pack`."""

    session: str
    fingerprint: str
    deadline: float  # seconds since 1970; infinity: never
    body: bytes
    position: int = 0

    def block(self) -> Block:
        """A block of this session alone."""
        return Block(self.fingerprint, (self.session,), (self.position,), (self.deadline,), (self.body,))


@dataclass(frozen=True, slots=True)
class Block:
    """Sessions of one model as a store keeps them, in columns: so a commit makes few Python objects."""

    fingerprint: str
    sessions: Sequence[str]
    positions: Sequence[int]
    deadlines: Sequence[float]
    bodies: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.sessions)

    def record(self, i: int) -> Record:
        """The session at index `i`."""
        return Record(
            self.sessions[i], self.fingerprint, self.deadlines[i], self.bodies[i], self.positions[i]
        )

    def records(self) -> Iterator[Record]:
        """Every session as a `Record`."""
        return map(self.record, range(len(self)))

    def without(self, sessions: Collection[str]) -> Block:
        """A block of all other sessions."""
        return self.select([i for i, session in enumerate(self.sessions) if session not in sessions])

    def select(self, indexes: Sequence[int]) -> Block:
        """A block of the sessions at these indexes."""
        columns = (self.sessions, self.positions, self.deadlines, self.bodies)
        return Block(self.fingerprint, *([column[i] for i in indexes] for column in columns))  # type: ignore[arg-type]


def any_model(fingerprint: str) -> bool:  # noqa: ARG001
    """Accept the sessions of every model."""
    return True


@dataclass(frozen=True, slots=True)
class NamesQuery:
    """Which page of the sessions, in the order of their names.

    after : the name that was listed last; "" for the beginning, in either direction
    limit : at most so many sessions
    prefix : their names begin with it
    fingerprint_filter : whether to list the sessions of this fingerprint
    labels : each has all of these
    descending : the greatest name first
    """

    after: str
    limit: int
    prefix: str = ""
    fingerprint_filter: Callable[[str], bool] = any_model
    labels: Labels = ()
    descending: bool = False

    @property
    def span(self) -> tuple[str, str]:
        """All names that are left sort behind the first text and before the second."""
        return name_range(self.after, self.prefix, descending=self.descending)

    def first(self, names: SortedList[str]) -> Iterator[str]:
        """The first of these names."""
        found = names.irange(*self.span, (False, False), reverse=self.descending)
        return islice(found, self.limit)

    def merge(self, lists: Iterable[Sequence[tuple[str, str]]]) -> NamePage:
        """The page, of (name, fingerprint) lists that each begin with the first sessions of a model."""
        merged = heapq.merge(*lists, reverse=self.descending)
        return NamePage.of(list(islice(merged, self.limit)), self.limit, None)

    def accepts(self, record: Record) -> bool:
        """Whether the session has all of the labels, and its model is one to list."""
        return self.fingerprint_filter(record.fingerprint) and not set(self.labels).difference(
            labels_of(record.body)
        )


@dataclass(frozen=True, slots=True)
class NamePage:
    """A page of the sessions.

    With labels, a page looks at a bounded number of sessions, so that labels that few sessions have together
    hold nobody up. So it may have fewer sessions than were wanted though it is not the last.

    found : (name, fingerprint) of each, in order
    end : no session up to this name, in the order of the list, is left out; None behind the last page
    """

    found: Sequence[tuple[str, str]]
    end: str | None

    @classmethod
    def of(cls, found: Sequence[tuple[str, str]], limit: int, end: str | None) -> NamePage:
        """A page of at most `limit` of these sessions."""
        return cls(found[:limit], found[limit - 1][0]) if len(found) >= limit else cls(found, end)

    @classmethod
    def merge(cls, pages: Iterable[NamePage], limit: int, *, descending: bool = False) -> NamePage:
        """One page of the pages of several stores, which have no session in common."""
        pages = list(pages)
        if len(pages) == 1:
            return cls.of(pages[0].found, limit, pages[0].end)
        ends = [page.end for page in pages if page.end is not None]
        first = islice(heapq.merge(*(page.found for page in pages), reverse=descending), limit)
        if not ends:
            return cls.of(list(first), limit, None)
        end = max(ends) if descending else min(ends)  # behind it, a page may have left a session out
        sure = [entry for entry in first if (entry[0] >= end if descending else entry[0] <= end)]
        return cls.of(sure, limit, end)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What a store remembers of a session that is gone."""

    session: str
    position: int
    reason: Literal["expired", "deleted"]
    removed: float  # seconds since 1970


Conflicts = Mapping[str, CarryoverError | None]
"""By session, why it was not kept or confirmed: None where another replica was ahead, or the error."""

NO_CONFLICTS: Conflicts = {}


def find_unwritable(blocks: Sequence[Block], seal: Callable[[Block], object]) -> dict[str, CarryoverError]:
    """By session, why `seal` raises for a block of that session alone."""
    found: dict[str, CarryoverError] = {}
    for block in blocks:
        for i, session in enumerate(block.sessions):
            try:
                seal(block.select([i]))
            except Exception as error:  # noqa: BLE001  (whatever it was, it fails this session alone)
                found[session] = StepFailed(
                    f"session {id_of(session)!r} cannot be stored: {error}; it was not advanced"
                )
    return found


class Store(Protocol):
    """What the engine needs of a store. Calls come one after the other, in the order of the ticks."""

    writes_through: bool
    """Whether every change is committed to the store, or only sessions that are evicted from the slab."""
    may_block: bool
    """Whether a call may wait for a device. If so, the engine makes the calls from a thread."""
    upkeep_seconds: float
    """Most seconds between two calls of `tend`, which does the store's upkeep; 0 if it need not be called."""
    last_saved: float | None
    """When sessions were last written before this start, seconds since 1970; None if unknown."""
    no_expiry_before: float | None
    """Sessions with an earlier deadline do not expire; None if every session may. Set after a clock jump."""
    upkeep_due: bool
    """Whether upkeep is due: `tend` should be called right after this tick's replies."""

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        """Keep all of this or none. A tombstone removes its session's record. No session comes twice.

        Returns
        -------
        The sessions that were not kept; empty where no other replica writes to the store.

        Raises
        ------
        StoreFailed : nothing was kept
        """

    def unwritable(self, blocks: Sequence[Block]) -> dict[str, CarryoverError]:
        """By session, why its record cannot be written here. Called after a commit has failed.

        A session whose record is at fault fails alone: the others are committed without it.
        """

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        """The records of these sessions, and by session the tombstone or the error of others.

        A session that was never there is in neither. A store that does not write through gives its records
        away: it no longer has them.
        """

    def names(self, query: NamesQuery) -> NamePage:
        """A page of the sessions.

        The work grows with the page and the number of models, and not with the number of sessions. With
        labels, the first is looked up in an index, and the others are checked.
        """

    def expired(self, now: float, limit: int) -> list[str]:
        """Up to `limit` sessions whose deadline has passed."""

    def save_no_expiry_before(self, before: float | None) -> None:
        """Set `no_expiry_before`, and save it for the next starts. None removes it.

        Called after a jump of the clock: it is unknown whether these sessions were idle
        (`app.engine.idle_time`).
        """

    def __len__(self) -> int:
        """How many sessions the store has. Right at any time, also while a thread is in another call."""

    def tend(self) -> None:
        """Do a bounded part of the store's upkeep. No commit depends on it.

        The metrics report the call under this name.

        Raises
        ------
        StoreFailed : commits are likely to fail until a later call succeeds
        """

    def close(self) -> None:
        """Write what is not written yet, and release the device. A second call does nothing."""


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that other replicas write to as well: a resident session may be out of date.

    It remembers each session's revision from `load` or `commit` until `forget_revisions`. It commits a
    session only while the store still has that revision. This is atomic for each session and not for a batch.
    A commit that raises `StoreFailed` may have been kept in part.
    """

    fenced: int
    """Commits refused because another replica was ahead."""

    def confirm(self, sessions: Sequence[str]) -> Conflicts:
        """Those of these sessions that have changed in the store since they were loaded or committed here."""

    def forget_revisions(self, sessions: Iterable[str]) -> None:
        """Forget the revisions of these sessions, which are no longer resident."""
