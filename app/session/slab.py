"""The resident sessions of one model: a row each, in arrays that are read and written in place.

Memory is reserved at start, and the kernel provides it page by page as rows are first used: an empty slab of
a million rows costs nothing. A row is taken and given back in constant time. When the slab is full, the
clock algorithm (second chance; Corbato, 1968) chooses which sessions to evict. Each row has a mark. Every use
sets the mark, and the clock's hand clears it as it passes. So the hand finds sessions that were not used
since its last pass. An exact list of the least recently used sessions would have to move an entry on every
use. Here a use sets one byte, and the marks of a whole batch are set by one array operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from sortedcontainers import SortedList

from app.session.history import HistoryPool
from app.session.label_index import LabelIndex
from app.session.name_table import NameTable
from app.session.notes import NO_NOTES, Notes
from app.session.rows import LongAnswers, Rows, header_type
from models.arrays import Digests, Epochs, Floats, Headers, Ints, Seconds, UInt32s
from models.forecaster import Forecaster
from models.jit import jit, readonly

MIN_ROWS_FOR_SLICE = 256  # for fewer rows it is not worth testing whether they are consecutive
HAND_STEP = 1024  # number of rows that the clock's hand passes in one array operation
COLD, WARM, PINNED = 0, 1, 2


class HeaderColumns(NamedTuple):
    """Array views of the header fields that change with each chunk. The names are those in `header_type`."""

    position: Ints
    since_reset: Ints
    epoch: Epochs
    seen: Seconds
    deadline: Seconds
    ttl: Seconds
    digest: Digests
    chunk_lengths: UInt32s
    answer: Floats


class Slab:
    """Rows of the sessions of `forecaster`, by session name.

    Parameters
    ----------
    capacity : rows; at least the sessions of one batch, which must all be resident
    recent_chunks : answers remembered for each session
    pool : memory for what the sessions observed last; None: it is not kept
    """

    def __init__(
        self, forecaster: Forecaster, capacity: int, recent_chunks: int, pool: HistoryPool | None = None
    ) -> None:
        self.forecaster = forecaster
        self.output_ports = forecaster.artifact.output_ports
        self.capacity = capacity
        self.recent_chunks = recent_chunks
        self.headers = np.zeros(capacity, header_type(recent_chunks, forecaster.short_answer_size))
        self.carries = np.zeros((capacity, forecaster.carry_size), np.float32)
        # These views treat a whole row as one value. Copying headers field by field is 10 times slower;
        # copying carries number by number is 2 times slower.
        self._headers_as_items = self.headers.view(f"V{self.headers.dtype.itemsize}")
        self._carry_item = np.dtype((np.void, self.carries.itemsize * forecaster.carry_size))
        self._carries_as_items = self._as_single_items(self.carries)
        self.columns = HeaderColumns(*(self.headers[name] for name in HeaderColumns._fields))
        self._fresh = forecaster.new_carry
        self.long_answers: dict[int, LongAnswers] = {}  # by row; see `app.session.rows`
        self.notes: dict[int, Notes] = {}  # by row; only sessions that have any
        self._has_notes = np.zeros(capacity, np.bool_)
        self.labels = LabelIndex()  # of published sessions
        self.index: dict[str, int] = {}  # published sessions only
        self.table = NameTable(capacity)  # the same rows, for the names of many sessions at once
        self.names: SortedList[str] = SortedList()
        self._owner: list[str | None] = []  # by row; None where free or not yet published
        self.published = np.zeros(capacity, np.bool_)  # by row, whether it has an owner
        self.used = np.zeros(capacity, np.uint8)
        # Single samples would be gone within milliseconds.
        keeps_past = pool is not None and forecaster.samples is None
        self.histories = pool.histories(forecaster, capacity) if pool is not None and keeps_past else None
        self._free: list[int] = []
        self._hand = 0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def free_rows(self) -> int:
        """Number of rows that can be taken without evicting a session."""
        return self.capacity - len(self._owner) + len(self._free)

    def take(self) -> int:
        """A free row with a header of zeros. The caller has made room before."""
        if self._free:
            row = self._free.pop()
            self.headers[row] = np.zeros((), self.headers.dtype)
            self.carries[row] = self._fresh
        else:
            row = len(self._owner)
            self._owner.append(None)
            if self._fresh.any():  # a carry of zeros needs no memory until the session's first chunk
                self.carries[row] = self._fresh
        return row

    def give_back(self, row: int) -> None:
        """Free a row that was taken and never published, or whose session was removed."""
        self._owner[row] = None
        self.published[row] = False
        self.used[row] = COLD
        self.headers["deadline"][row] = np.inf  # so that `expired` never reports it
        self.long_answers.pop(row, None)
        self.set_notes(row, NO_NOTES)
        if self.histories is not None:
            self.histories.forget(row)
        self._free.append(row)

    def publish(self, session: str, row: int) -> None:
        """Make `session` resident at `row`."""
        self.index[session] = row
        self.table.add(session, row)
        self.names.add(session)
        if row in self.notes:
            self.labels.add(session, self.notes[row].labels)
        self._owner[row] = session
        self.published[row] = True
        self.used[row] = WARM

    def owner(self, row: int) -> str | None:
        """The session at this row; None if the row is free or not yet published."""
        return self._owner[row]

    def remove(self, session: str) -> None:
        """Remove a resident session, and free its row."""
        row = self.index.pop(session)
        self.table.remove(row)
        self.names.remove(session)
        if row in self.notes:
            self.labels.remove(session, self.notes[row].labels)
        self.give_back(row)

    def read(self, rows: Ints) -> Rows:
        """A copy of these rows."""
        headers = self.read_headers(rows)
        carries = self.carries.take(rows, axis=0)
        return Rows(headers, carries, self._long_answers_of(rows, headers), self.notes_of(rows))

    def read_headers(self, rows: Ints) -> Headers:
        """A copy of the headers of these rows."""
        return self._headers_as_items.take(rows).view(self.headers.dtype)

    def view(self, rows: Ints) -> Rows:
        """These rows with the headers copied and the carries read-only.

        The carries of many consecutive rows, such as those of sessions that one request created, are not
        copied: they are valid until one of the rows is written.
        """
        if len(rows) < MIN_ROWS_FOR_SLICE or not _are_consecutive(rows):
            return self.read(rows)
        run = slice(int(rows[0]), int(rows[-1]) + 1)
        headers = self._headers_as_items[run].copy().view(self.headers.dtype)
        carries = self.carries[run]
        carries.flags.writeable = False
        return Rows(headers, carries, self._long_answers_of(rows, headers), self.notes_of(rows))

    def _as_single_items(self, carries: Floats) -> Headers:
        """[n], the carries [n, carry_size] as an array with one item for each carry."""
        return np.ascontiguousarray(carries, np.float32).view(self._carry_item)[:, 0]

    def _long_answers_of(self, rows: Ints, headers: Headers) -> dict[int, LongAnswers]:
        """By index, the long answers of these rows. Only rows that have any are looked up."""
        if not self.long_answers:
            return {}
        indexes = np.flatnonzero(headers["long_answer_count"]).tolist()
        return {i: self.long_answers[int(rows[i])] for i in indexes}

    def notes_of(self, rows: Ints) -> dict[int, Notes]:
        """By index, the notes of these rows."""
        if not self.notes:
            return {}
        return {i: self.notes[int(rows[i])] for i in np.flatnonzero(self._has_notes[rows]).tolist()}

    def has_labels(self, row: int, labels: set[str]) -> bool:
        """Whether the session at this row has all of these labels."""
        return not labels.difference(self.notes.get(row, NO_NOTES).labels)

    def set_notes(self, row: int, notes: Notes) -> None:
        """Set the notes of a row, and list its session by its labels if it is published."""
        before = self.notes.get(row, NO_NOTES)
        if notes == before:
            return
        if notes:
            self.notes[row] = notes
        else:
            del self.notes[row]
        self._has_notes[row] = bool(notes)
        if notes.labels != before.labels and (session := self._owner[row]) is not None:
            self.labels.remove(session, before.labels)
            self.labels.add(session, notes.labels)

    def write(self, rows: Ints, values: Rows) -> None:
        """Write values into these rows, and mark the rows as used."""
        if self.long_answers:
            for row in rows[np.flatnonzero(self.headers["long_answer_count"][rows])].tolist():
                self.long_answers.pop(row, None)
        self._headers_as_items[rows] = values.headers.view(self._headers_as_items.dtype)
        self._carries_as_items[rows] = self._as_single_items(values.carries)
        self.used[rows] = WARM
        for i, answers in values.long_answers.items():
            self.long_answers[int(rows[i])] = answers
        if self.notes or values.notes:
            for i in values.notes.keys() | set(np.flatnonzero(self._has_notes[rows]).tolist()):
                self.set_notes(int(rows[i]), values.notes.get(i, NO_NOTES))

    def pin(self, rows: Sequence[int] | Ints) -> None:
        """Exclude these rows from eviction until they are written or unpinned."""
        self.used[rows] = PINNED

    def unpin(self, rows: Sequence[int] | Ints) -> None:
        self.used[rows] = WARM

    def least_recently_used(self, count: int) -> list[str]:
        """Find up to `count` sessions to evict: not recently used, and not pinned."""
        found: list[str] = []
        total_passed = 0
        limit = 2 * len(self._owner) + HAND_STEP
        while len(found) < count and total_passed < limit:
            stop = min(self._hand + HAND_STEP, len(self._owner))
            marks = self.used[self._hand : stop]
            cold = np.flatnonzero(marks == COLD)[: count - len(found)]
            passed = int(cold[-1]) + 1 if len(found) + len(cold) == count and len(cold) else len(marks)
            found += [name for row in cold.tolist() if (name := self._owner[self._hand + row]) is not None]
            marks[:passed][marks[:passed] == WARM] = COLD
            marks[cold] = PINNED  # so that no session is found twice in one call
            total_passed += passed
            self._hand = 0 if self._hand + passed >= len(self._owner) else self._hand + passed
        self.used[[self.index[name] for name in found]] = COLD
        return found

    def expired(self, now: float, start: int, count: int) -> tuple[list[str], int]:
        """Find the sessions past their deadline among `count` rows from `start`.

        Returns their names, and the row to continue with.
        """
        stop = min(start + count, len(self._owner))
        expired = np.flatnonzero(self.headers["deadline"][start:stop] < now)
        names = [name for row in expired.tolist() if (name := self._owner[start + row]) is not None]
        return names, 0 if stop >= len(self._owner) else stop

    def earliest_deadline(self, rows: Ints) -> float:
        """When the first of the sessions at these rows expires, in seconds since 1970."""
        return float(self.headers["deadline"][rows].min())

    def rows_of(self, sessions: Iterable[str]) -> Ints:
        """The rows of sessions that are all resident."""
        return np.fromiter(map(self.index.__getitem__, sessions), np.int64)


@jit(readonly("int64"))
def _are_consecutive(rows: Ints) -> bool:
    consecutive = True
    for i in range(1, len(rows)):
        consecutive &= rows[i] == rows[0] + i
    return consecutive
