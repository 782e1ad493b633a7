"""Sessions in one SQLite file: an answered chunk is on disk.

A wave is committed as one row of a journal, with one fsync, in one call that gives up the interpreter lock
once. `tend` folds the journal into the tables behind, a small piece a call, and takes the write-ahead log
into the file. A fold waits for no disk: it says nothing that the journal does not, and the next commit's
fsync, of the same log, covers it. Folded waves leave the journal with it, and their pages serve again: the
log is long and rarely taken in, and few of its pages are distinct, so that this is brief. What is not folded
yet is found in memory, which is read from the journal at start: so a start reads some megabytes, however
many sessions there are.

The journal's sequence is dense, so that a wave that is missing is noticed; records carry checksums, so
that damage is refused and never served. With a period, commits are answered at once and written behind:
a crash costs at most what was answered since the last flush, and `at` tells every client what that is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import msgspec

from app.errors import CarryoverError, ConfigError, StoreFailed
from app.stores import NO_CONFLICTS, Block, Conflicts, Record, Tombstone
from app.stores.sqlite import journal
from app.stores.sqlite.journal import RecordRef, Removal, SealedBlock, microseconds
from app.stores.sqlite.memtable import JournalEntry, MemTable, record_refs
from app.stores.sqlite.schema import PAGE_BYTES, open_database, reason
from app.stores.sqlite.tables import Tables, damage_error

log = logging.getLogger("carryover.store")

FOLD_BYTES = 2**19  # of journal, beyond which it is folded though commits come in
FOLD_RECORDS, FOLD_ENTRIES = 64, 8  # moved at once: a fraction of a millisecond, or one
IDLE_FOLDS = 4  # by one call of `tend` while no commits come in
CHECKPOINT_BYTES = 32 * 2**20  # of write-ahead log; with so short a journal, taking it in is some 4 ms
PATIENCE_SECONDS = 2.0  # that a period's flush may fail before chunks are refused


class SqliteStore:
    """A store in the file at `path`.

    Parameters
    ----------
    most_tombstones, tombstone_seconds : the oldest are forgotten beyond either
    period : seconds between flushes; 0: every commit is on disk when it returns
    clock : seconds since 1970

    Raises
    ------
    ConfigError : the file cannot be used, or must not be
    """

    writes_through = True
    may_block = True

    def __init__(
        self,
        path: Path,
        most_tombstones: int,
        tombstone_seconds: float,
        period: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.tend_seconds = period or 1.0
        self.tend_due = False
        self._most_tombstones = most_tombstones
        self._tombstone_seconds = tombstone_seconds
        self._period = period
        self._clock = clock
        self._database = open_database(path)
        self._inode = path.stat().st_ino
        self._memtable = MemTable()
        # Committed, and not written before the period is over.
        self._pending: dict[str, RecordRef] = {}
        self._pending_removals: dict[str, Removal] = {}
        self._failing_since: float | None = None
        self._failed_bytes = 0  # of the last write that failed, until one succeeds
        self._busy = False  # there was a commit since the last `tend`
        self._log_bytes = _size(path.with_name(path.name + "-wal"))  # of the write-ahead log, about
        self._lost = False  # the file is not where it was
        self._durable = False  # whether a transaction is known to be on the disk when it ends
        try:
            self._tables = Tables(self._database)
            self._sequence, self._buried = self._tables.folded, self._tables.removed
            self._count: int = self._tables.sessions
            self._read_journal()
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError, StoreFailed) as error:
            self._database.close()
            told = reason(error) if isinstance(error, sqlite3.Error) else str(error)
            raise ConfigError(f"store {path} cannot be used: {told}") from error

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        self._busy = True
        with self._or_failed("keep a wave"):
            sealed = [journal.seal(block) for block in blocks]
            removals = [
                Removal(tombstone, number, journal.checksum(tombstone))
                for number, tombstone in enumerate(tombstones, self._buried + 1)
            ]
            without_row = self._without_row(sealed, removals)
        if self._lost:
            self._find_file()
        if not self._period:
            self._write(sealed, removals)
        elif self._failing_since is not None and time.monotonic() - self._failing_since > PATIENCE_SECONDS:
            raise StoreFailed(f"the store {self.path} fails to keep what it was told; nothing more is taken")
        else:
            self._put_off(sealed, removals)
        self._put(sealed, removals, without_row)
        return NO_CONFLICTS

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        records: list[Record] = []
        others: dict[str, Tombstone | CarryoverError] = {}
        elsewhere: list[str] = []
        for session in sessions:
            if (place := self._memtable.alive.get(session)) is not None:
                one, i = place
                record = one.block.record(i)
                if journal.checksum(record) == one.crcs[i]:
                    records.append(record)
                else:
                    others[session] = damage_error(session)
            elif (removal := self._memtable.dead.get(session)) is not None:
                if journal.checksum(removal.tombstone) != removal.crc:
                    others[session] = damage_error(session)
                elif self._remembered(removal.number, removal.tombstone):
                    others[session] = removal.tombstone
            else:
                elsewhere.append(session)
        if elsewhere:
            with self._or_failed("be read"):
                found, damaged = self._tables.records(elsewhere)
                records += found
                others |= damaged
                gone = [one for one in elsewhere if one not in damaged]
                for session, (number, tombstone) in self._tables.load_tombstones(gone).items():
                    if self._remembered(number, tombstone):
                        others[session] = tombstone
        return records, others

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        memtable = self._memtable
        with self._or_failed("be read"):
            found = dict(self._tables.names(after, limit + memtable.count_dead_rows()))
        for session in islice(memtable.new_sessions.irange(after, inclusive=(False, True)), limit):
            found[session] = ""
        for session in found.keys() & memtable.alive.keys():
            found[session] = memtable.alive[session][0].block.fingerprint
        for session in found.keys() & memtable.dead.keys():
            del found[session]
        return sorted(found.items())[:limit]

    def expired(self, now: float, limit: int) -> list[str]:
        memtable = self._memtable
        late = [session for session, deadline in memtable.deadlines.items() if deadline < now]
        with self._or_failed("be read"):
            resting = self._tables.expired(now, limit + len(memtable.deadlines) + memtable.count_dead_rows())
        newer = memtable.alive.keys() | memtable.dead.keys() if resting else ()
        return (late + [session for session in resting if session not in newer])[:limit]

    def __len__(self) -> int:
        return self._count

    def tend(self) -> None:
        idle, self._busy = not self._busy, False
        self._find_file()
        if self._failed_bytes:
            self._probe()
        self._flush()
        for _ in range(IDLE_FOLDS if idle else 1):
            if self._memtable.entries and (idle or self._memtable.size > FOLD_BYTES):
                self._fold()
        if self._log_bytes > CHECKPOINT_BYTES or (idle and self._log_bytes and not self._memtable.entries):
            with self._or_failed("take its log in"):
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._log_bytes = 0
        self.tend_due = self._memtable.size > FOLD_BYTES

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._database.close()

    def _without_row(self, blocks: Sequence[SealedBlock], removals: Sequence[Removal]) -> set[str]:
        """Those of these sessions that are told of for the first time: neither unfolded nor in the table."""
        told = [session for one in blocks for session in one.block.sessions]
        told += [removal.tombstone.session for removal in removals]
        unknown = self._memtable.unknown(told)
        return unknown - self._tables.present(list(unknown)) if unknown else unknown

    def _write(self, blocks: Sequence[SealedBlock], removals: Sequence[Removal]) -> None:
        """One row, one transaction, one fsync."""
        sequence = self._sequence + 1
        heads, crc, bodies = journal.encode_entry(sequence, blocks, removals)
        size = len(heads) + len(bodies)
        with self._or_failed("keep a wave", size):
            self._await_disk(True)
            self._database.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (sequence, heads, crc, bodies))
        self._log_bytes += size + 3 * PAGE_BYTES
        self._wrote(sequence, blocks, removals, size)

    def _wrote(
        self, sequence: int, blocks: Sequence[SealedBlock], removals: Sequence[Removal], size: int
    ) -> None:
        self._sequence = sequence
        self._buried = max([self._buried, *(removal.number for removal in removals)])
        self._memtable.add_entry(JournalEntry(sequence, blocks, removals, size, self._buried))
        self.tend_due = self._memtable.size > FOLD_BYTES

    def _put(self, blocks: Sequence[SealedBlock], removals: Sequence[Removal], without_row: set[str]) -> None:
        self._memtable.without_row |= without_row
        for one in blocks:
            self._count += self._memtable.put(one)
        for removal in removals:
            self._count += self._memtable.remove(removal)

    def _put_off(self, blocks: Sequence[SealedBlock], removals: Sequence[Removal]) -> None:
        """Keep these for the next flush, in place of what was kept of their sessions."""
        for one in blocks:
            self._pending.update(zip(one.block.sessions, record_refs(one), strict=True))
            for session in one.block.sessions if self._pending_removals else ():
                self._pending_removals.pop(session, None)
        for removal in removals:
            self._buried = removal.number
            self._pending.pop(removal.tombstone.session, None)
            self._pending_removals[removal.tombstone.session] = removal

    def _flush(self) -> None:
        """Write what is pending: of each session the newest."""
        if not self._pending and not self._pending_removals:
            return
        blocks, removals = (
            journal.group_by_model(self._pending.values()),
            list(self._pending_removals.values()),
        )
        try:
            self._write(blocks, removals)
        except StoreFailed:
            self._failing_since = self._failing_since or time.monotonic()
            raise
        self._put(blocks, [], set())  # the same records, where the wave has them
        self._pending.clear()
        self._pending_removals.clear()
        self._failing_since = None

    def _fold(self) -> None:
        memtable = self._memtable
        entries, records, removals = memtable.oldest(FOLD_RECORDS, FOLD_ENTRIES)
        last = entries[-1]
        forget = (last.removed - self._most_tombstones, microseconds(self._oldest_tombstone()))
        with self._or_failed("fold its journal"):
            self._await_disk(False)
            self._tables.fold(records, removals, memtable.without_row, last.sequence, last.removed, forget)
        memtable.folded(entries, records, removals)
        self._log_bytes += (2 * (len(records) + len(removals)) + len(entries) + 8) * PAGE_BYTES

    def _await_disk(self, wanted: bool) -> None:
        """Whether transactions from here on are on the disk when they end. What fails is asked again."""
        if wanted != self._durable:
            self._durable = False
            self._database.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._durable = wanted

    def _read_journal(self) -> None:
        """Take the unfolded waves into memory; a gap among them is a wave that was lost."""
        rows = self._database.execute(
            "SELECT sequence, heads, crc, bodies FROM journal WHERE sequence > ? ORDER BY sequence",
            (self._sequence,),
        )
        for sequence, heads, crc, bodies in rows:
            if sequence != self._sequence + 1:
                raise StoreFailed(f"wave {self._sequence + 1} of its journal is missing; restore a copy")
            blocks, removals = journal.decode_entry(sequence, heads, crc, bodies, self._buried)
            self._put(blocks, removals, self._without_row(blocks, removals))
            self._wrote(sequence, blocks, removals, len(heads) + len(bodies))
            for session in (session for one in blocks for session in journal.damaged_sessions(one)):
                log.error("store %s: %s", self.path, damage_error(session))

    def _remembered(self, number: int, tombstone: Tombstone) -> bool:
        """Whether it is among the newest and young enough."""
        among = number > self._buried - self._most_tombstones
        return among and tombstone.removed >= self._oldest_tombstone()

    def _oldest_tombstone(self) -> float:
        return max(self._clock() - self._tombstone_seconds, 0.0)

    def _find_file(self) -> None:
        try:
            there = self.path.stat().st_ino == self._inode
        except OSError:
            there = False
        self._lost = not there
        if self._lost:
            raise StoreFailed(f"the file {self.path} was removed or replaced under the running server")

    def _probe(self) -> None:
        """Write as much as the write that failed: from here on a commit is to be expected to succeed."""
        with self._or_failed("keep a trial", self._failed_bytes):
            self._await_disk(True)
            self._database.execute("INSERT INTO probe VALUES (zeroblob(?))", (self._failed_bytes,))
            self._database.execute("DELETE FROM probe")
        self._failed_bytes = 0

    @contextmanager
    def _or_failed(self, what: str, size: int = PAGE_BYTES) -> Iterator[None]:
        """Whatever SQLite raises is a `StoreFailed`, and its transaction is rolled back."""
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
            if self._database.in_transaction:
                self._database.rollback()
            self._failed_bytes = max(size, self._failed_bytes)
            told = reason(error) if isinstance(error, sqlite3.Error) else str(error)
            raise StoreFailed(f"the store {self.path} could not {what}: {told}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
