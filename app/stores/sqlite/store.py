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
from app.stores import NONE_LOST, Block, Lost, Record, Tombstone
from app.stores.sqlite import journal
from app.stores.sqlite.journal import Grave, Place, Sealed, microseconds
from app.stores.sqlite.memtable import Unfolded, Written, place_each
from app.stores.sqlite.schema import PAGE_BYTES, opened, reason
from app.stores.sqlite.tables import Tables, damage

log = logging.getLogger("carryover.store")

FOLD_BYTES = 2**19  # of journal, beyond which it is folded though commits come in
FOLD_RECORDS, FOLD_WAVES = 64, 8  # moved at once: a fraction of a millisecond, or one
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
    blocks = True

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
        self.due = False
        self._most_tombstones = most_tombstones
        self._tombstone_seconds = tombstone_seconds
        self._period = period
        self._clock = clock
        self._database = opened(path)
        self._inode = path.stat().st_ino
        self._unfolded = Unfolded()
        # Committed, and not written before the period is over.
        self._pending: dict[str, Place] = {}
        self._pending_graves: dict[str, Grave] = {}
        self._failing_since: float | None = None
        self._failed_bytes = 0  # of the last write that failed, until one succeeds
        self._busy = False  # there was a commit since the last `tend`
        self._log_bytes = _size(path.with_name(path.name + "-wal"))  # of the write-ahead log, about
        self._lost = False  # the file is not where it was
        self._durable = False  # whether a transaction is known to be on the disk when it ends
        try:
            self._tables = Tables(self._database)
            self._sequence, self._buried = self._tables.folded, self._tables.buried
            self._count: int = self._tables.sessions
            self._read_journal()
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError, StoreFailed) as error:
            self._database.close()
            told = reason(error) if isinstance(error, sqlite3.Error) else str(error)
            raise ConfigError(f"store {path} cannot be used: {told}") from error

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Lost:
        self._busy = True
        with self._or_failed("keep a wave"):
            sealed = [journal.seal(block) for block in blocks]
            graves = [
                Grave(tombstone, number, journal.check(tombstone))
                for number, tombstone in enumerate(tombstones, self._buried + 1)
            ]
            strange = self._strange(sealed, graves)
        if self._lost:
            self._find_file()
        if not self._period:
            self._write(sealed, graves)
        elif self._failing_since is not None and time.monotonic() - self._failing_since > PATIENCE_SECONDS:
            raise StoreFailed(f"the store {self.path} fails to keep what it was told; nothing more is taken")
        else:
            self._put_off(sealed, graves)
        self._put(sealed, graves, strange)
        return NONE_LOST

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        records: list[Record] = []
        others: dict[str, Tombstone | CarryoverError] = {}
        elsewhere: list[str] = []
        for session in sessions:
            if (place := self._unfolded.alive.get(session)) is not None:
                one, i = place
                record = one.block.record(i)
                if journal.check(record) == one.crcs[i]:
                    records.append(record)
                else:
                    others[session] = damage(session)
            elif (grave := self._unfolded.dead.get(session)) is not None:
                if journal.check(grave.tombstone) != grave.crc:
                    others[session] = damage(session)
                elif self._remembered(grave.number, grave.tombstone):
                    others[session] = grave.tombstone
            else:
                elsewhere.append(session)
        if elsewhere:
            with self._or_failed("be read"):
                found, damaged = self._tables.records(elsewhere)
                records += found
                others |= damaged
                gone = [one for one in elsewhere if one not in damaged]
                for session, (number, tombstone) in self._tables.remains(gone).items():
                    if self._remembered(number, tombstone):
                        others[session] = tombstone
        return records, others

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        unfolded = self._unfolded
        with self._or_failed("be read"):
            found = dict(self._tables.names(after, limit + unfolded.doomed()))
        for session in islice(unfolded.fresh.irange(after, inclusive=(False, True)), limit):
            found[session] = ""
        for session in found.keys() & unfolded.alive.keys():
            found[session] = unfolded.alive[session][0].block.fingerprint
        for session in found.keys() & unfolded.dead.keys():
            del found[session]
        return sorted(found.items())[:limit]

    def expired(self, now: float, limit: int) -> list[str]:
        unfolded = self._unfolded
        late = [session for session, deadline in unfolded.mortal.items() if deadline < now]
        with self._or_failed("be read"):
            resting = self._tables.expired(now, limit + len(unfolded.mortal) + unfolded.doomed())
        newer = unfolded.alive.keys() | unfolded.dead.keys() if resting else ()
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
            if self._unfolded.waves and (idle or self._unfolded.size > FOLD_BYTES):
                self._fold()
        if self._log_bytes > CHECKPOINT_BYTES or (idle and self._log_bytes and not self._unfolded.waves):
            with self._or_failed("take its log in"):
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._log_bytes = 0
        self.due = self._unfolded.size > FOLD_BYTES

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._database.close()

    def _strange(self, blocks: Sequence[Sealed], graves: Sequence[Grave]) -> set[str]:
        """Those of these sessions that are told of for the first time: neither unfolded nor in the table."""
        told = [session for one in blocks for session in one.block.sessions]
        told += [grave.tombstone.session for grave in graves]
        unknown = self._unfolded.unknown(told)
        return unknown - self._tables.present(list(unknown)) if unknown else unknown

    def _write(self, blocks: Sequence[Sealed], graves: Sequence[Grave]) -> None:
        """One row, one transaction, one fsync."""
        sequence = self._sequence + 1
        heads, crc, bodies = journal.written(sequence, blocks, graves)
        size = len(heads) + len(bodies)
        with self._or_failed("keep a wave", size):
            self._await_disk(True)
            self._database.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (sequence, heads, crc, bodies))
        self._log_bytes += size + 3 * PAGE_BYTES
        self._wrote(sequence, blocks, graves, size)

    def _wrote(self, sequence: int, blocks: Sequence[Sealed], graves: Sequence[Grave], size: int) -> None:
        self._sequence = sequence
        self._buried = max([self._buried, *(grave.number for grave in graves)])
        self._unfolded.wrote(Written(sequence, blocks, graves, size, self._buried))
        self.due = self._unfolded.size > FOLD_BYTES

    def _put(self, blocks: Sequence[Sealed], graves: Sequence[Grave], strange: set[str]) -> None:
        self._unfolded.strange |= strange
        for one in blocks:
            self._count += self._unfolded.put(one)
        for grave in graves:
            self._count += self._unfolded.bury(grave)

    def _put_off(self, blocks: Sequence[Sealed], graves: Sequence[Grave]) -> None:
        """Keep these for the next flush, in place of what was kept of their sessions."""
        for one in blocks:
            self._pending.update(zip(one.block.sessions, place_each(one), strict=True))
            for session in one.block.sessions if self._pending_graves else ():
                self._pending_graves.pop(session, None)
        for grave in graves:
            self._buried = grave.number
            self._pending.pop(grave.tombstone.session, None)
            self._pending_graves[grave.tombstone.session] = grave

    def _flush(self) -> None:
        """Write what is pending: of each session the newest."""
        if not self._pending and not self._pending_graves:
            return
        blocks, graves = journal.gathered(self._pending.values()), list(self._pending_graves.values())
        try:
            self._write(blocks, graves)
        except StoreFailed:
            self._failing_since = self._failing_since or time.monotonic()
            raise
        self._put(blocks, [], set())  # the same records, where the wave has them
        self._pending.clear()
        self._pending_graves.clear()
        self._failing_since = None

    def _fold(self) -> None:
        unfolded = self._unfolded
        waves, records, graves = unfolded.oldest(FOLD_RECORDS, FOLD_WAVES)
        last = waves[-1]
        forget = (last.buried - self._most_tombstones, microseconds(self._oldest_tombstone()))
        with self._or_failed("fold its journal"):
            self._await_disk(False)
            self._tables.fold(records, graves, unfolded.strange, last.sequence, last.buried, forget)
        unfolded.folded(waves, records, graves)
        self._log_bytes += (2 * (len(records) + len(graves)) + len(waves) + 8) * PAGE_BYTES

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
            blocks, graves = journal.read(sequence, heads, crc, bodies, self._buried)
            self._put(blocks, graves, self._strange(blocks, graves))
            self._wrote(sequence, blocks, graves, len(heads) + len(bodies))
            for session in (session for one in blocks for session in journal.damaged(one)):
                log.error("store %s: %s", self.path, damage(session))

    def _remembered(self, number: int, tombstone: Tombstone) -> bool:
        """Whether it is among the newest and young enough."""
        among = number > self._buried - self._most_tombstones
        return among and tombstone.buried >= self._oldest_tombstone()

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
