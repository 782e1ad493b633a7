"""Stores sessions in one SQLite file. By default a chunk is on disk before it is answered.

A batch is committed by one row of a journal, with one fsync. Later the newest record of each session goes
into the tables, where a session is a row. Until then it is kept in memory too, where look-ups find it.
Records and the journal carry checksums, so that damage is refused and never served.

A small file beside the database, the mark, holds the number of the last committed batch. If the write-ahead
log is damaged or missing, SQLite silently opens an older state. The mark shows this, and the store is refused
at start.

`tend` maintains the store: it writes records of the journal to the tables, and checkpoints the write-ahead
log into the file. If `period` is set, there is no journal: commits are answered at once and written later. A
crash then loses at most the chunks answered since the last flush. Each client can see from the position which
chunks it must send again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec

from app.errors import CarryoverError, ConfigError, StoreFailed
from app.stores import (
    NO_CONFLICTS,
    Block,
    Conflicts,
    NamePage,
    NamesQuery,
    Record,
    Tombstone,
    find_unwritable,
)
from app.stores.sqlite.check import ADVICE, check_last_commit, check_names
from app.stores.sqlite.commit_mark import CommitMark, LastCommit, last_run
from app.stores.sqlite.journal import DamagedJournal, Journal, read_journal
from app.stores.sqlite.pending import PendingChanges
from app.stores.sqlite.schema import (
    PAGE_BYTES,
    errors_as_config_error,
    open_database,
    reason,
    settle,
    without_fsync,
)
from app.stores.sqlite.tables import StoredTombstone, Tables

log = logging.getLogger("carryover.store")

CHECKPOINT_BYTES = 32 * 2**20  # approximate size of the write-ahead log that causes a checkpoint
JOURNAL_BYTES = 8 * 2**20  # size of the journal from which records are written to the tables
PENDING_SESSIONS = 1024  # number of sessions in the journal from which the same is done
WRITTEN_AT_ONCE = 256  # records that are then written to the tables, at least; takes about 3 ms
PATIENCE_SECONDS = 2.0  # how long flushes may fail before chunks are refused


class SqliteStore:
    """A store in the file at `path`.

    Parameters
    ----------
    max_tombstones, tombstone_seconds : tombstones are forgotten if there are more, or if they are older
    period : seconds between flushes; with 0, every commit is on disk when it returns
    clock : seconds since 1970
    accept_loss : open the file even if committed batches are missing or a damaged index hides sessions

    Raises
    ------
    ConfigError : the file is unusable, or using it would hide a loss
    """

    writes_through = True
    may_block = True

    def __init__(
        self,
        path: Path,
        max_tombstones: int,
        tombstone_seconds: float,
        period: float = 0.0,
        clock: Callable[[], float] = time.time,
        *,
        accept_loss: bool = False,
    ) -> None:
        self.path = path
        self.upkeep_seconds = period or 1.0
        self.upkeep_due = False
        self._max_tombstones = max_tombstones
        self._tombstone_seconds = tombstone_seconds
        self._period = period
        self._clock = clock
        self._failing_since: float | None = None
        self._failed_bytes = 0  # size of the last failed write; 0 once a write succeeds
        self._busy = False  # whether there was a commit since the last `tend`
        self._log_bytes = 0  # approximate size of the write-ahead log
        self._is_lost = False  # whether the file was moved, replaced or removed
        self._is_closed = False
        self._is_settled = True  # no transaction has failed that may still be under way
        check_last_commit(path, accept_loss=accept_loss)
        self.last_saved = _last_run(path)
        self._no_expiry_path = path.with_name(path.name + "-held")
        self.no_expiry_before = _read_time(self._no_expiry_path)
        self._database = open_database(path)
        try:
            with errors_as_config_error(path):
                self._inode = path.stat().st_ino
                self._tables = Tables(self._database)
                check_names(path, self._tables, accept_loss=accept_loss)
                self._last_removal = self._tables.last_removal
                self._sequence = self._tables.sequence  # of the last committed batch
                # With those that are pending. One number, because the engine reads it while a thread writes.
                self._count = self._tables.sessions
                self._pending = PendingChanges(self._tables.count_present)
                self._journal = Journal(self._database)
                self._empty_journal(accept_loss=accept_loss)
                self._mark = self._create_mark()
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            self._database.close()
            raise ConfigError(f"store {path} cannot be used: it is damaged ({error})") from error
        except BaseException:
            self._database.close()
            raise

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        self._busy = True
        if self._is_lost:
            self._check_file()
        removals = [
            StoredTombstone(tombstone, number)
            for number, tombstone in enumerate(tombstones, self._last_removal + 1)
        ]
        if self._failing_since is not None and time.monotonic() - self._failing_since > PATIENCE_SECONDS:
            raise StoreFailed("the store cannot write what it has already accepted, so it accepts no more")
        size, sequence = sum(sum(map(len, block.bodies)) for block in blocks), self._sequence + 1
        with self._errors_as_store_failed("keep a batch", size):
            growth = self._pending.growth_by(blocks, removals)
            if not self._period:
                self._journal.append(sequence, blocks, removals)
                self._log_bytes += size + 4 * PAGE_BYTES
        self._sequence = sequence
        if not self._period:
            self._write_mark()
        self._pending.add(sequence, blocks, removals)
        self._count += growth
        self._last_removal += len(removals)
        self.upkeep_due = self._log_bytes > CHECKPOINT_BYTES or self._journal_is_full
        return NO_CONFLICTS

    def unwritable(self, blocks: Sequence[Block]) -> dict[str, CarryoverError]:
        return find_unwritable(blocks, lambda block: self._pending.growth_by([block], []))

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        records: list[Record] = []
        others: dict[str, Tombstone | CarryoverError] = {}
        not_pending: list[str] = []
        for session in sessions:
            change = self._pending.find(session)
            if change is None:
                not_pending.append(session)
            elif isinstance(change, Record):
                records.append(change)
            elif self._is_remembered(change):
                others[session] = change.tombstone
        if not_pending:
            with self._errors_as_store_failed("be read"):
                found, damaged = self._tables.records(not_pending)
                records += found
                others |= damaged
                missing = set(not_pending) - damaged.keys() - {record.session for record in found}
                for stored in self._tables.load_tombstones(list(missing)):
                    if self._is_remembered(stored):
                        others[stored.tombstone.session] = stored.tombstone
        return records, others

    def all_tombstones(self, page: int) -> Iterator[list[Tombstone]]:
        """All tombstones in the order of their removal, so many at a time."""
        with self._errors_as_store_failed("be read"):
            found, last = self._tables.tombstones_after(0, page)
            while last:
                yield found
                found, last = self._tables.tombstones_after(last, page)

    def names(self, query: NamesQuery) -> NamePage:
        self._flush()
        with self._errors_as_store_failed("be read"):
            return self._tables.labelled(query) if query.labels else self._tables.names(query)

    def expired(self, now: float, limit: int) -> list[str]:
        self._flush()
        with self._errors_as_store_failed("be read"):
            return self._tables.expired(now, limit)

    def save_no_expiry_before(self, before: float | None) -> None:
        """Set and save a deadline: sessions with an earlier one do not expire, now and after restarts."""
        self.no_expiry_before = before
        with self._errors_as_store_failed("save which sessions must not expire"):
            if before is None:
                self._no_expiry_path.unlink(missing_ok=True)
            else:
                with open(self._no_expiry_path, "w", opener=_open_for_owner) as file:
                    file.write(repr(before))

    def __len__(self) -> int:
        return self._count

    def tend(self) -> None:
        idle, self._busy = not self._busy, False
        self._check_file()
        if self._failed_bytes:
            self._probe()
        if self._period or idle:
            self._flush()
        elif self._journal_is_full:
            self._flush(max(WRITTEN_AT_ONCE, len(self._pending) - PENDING_SESSIONS))
        with self._errors_as_store_failed("forget old tombstones"):
            self._tables.forget_tombstones(self._oldest_tombstone())
        if self._log_bytes > CHECKPOINT_BYTES or (idle and self._log_bytes):
            with self._errors_as_store_failed("checkpoint its write-ahead log"):
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._log_bytes = 0
        with self._errors_as_store_failed("write its commit mark"):
            self._mark.note_run(self._clock())
            self._mark.sync()
        self.upkeep_due = False

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._flush()
            with self._errors_as_store_failed("be closed"):
                self._database.execute("UPDATE state SET is_open = 0")
                self._mark.sync()
        finally:
            self._mark.close()
            self._database.close()

    def _create_mark(self) -> CommitMark:
        """Create the mark, and record in the database file (not only in its log) that the mark must exist."""
        (generation,) = self._database.execute("SELECT generation FROM state").fetchone()
        # Not the present time: if this start fails, the next must find out as well how long the server stood.
        committed = self._clock() if self.last_saved is None else self.last_saved
        mark = CommitMark(self.path, LastCommit(generation, self._tables.sequence, committed))
        self._database.execute("UPDATE state SET is_open = 1")
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return mark

    def _empty_journal(self, *, accept_loss: bool) -> None:
        """Write what the journal holds to the tables.

        Raises
        ------
        ConfigError : a batch is missing or damaged; with `accept_loss` it is logged and left out
        sqlite3.Error, ValueError
        """
        for sequence, changes in read_journal(self._database, self._tables.sequence):
            self._sequence = sequence
            if isinstance(changes, DamagedJournal):
                if not accept_loss:
                    raise ConfigError(f"store {self.path} is damaged: {changes}; {ADVICE}")
                log.error("store %s is damaged, and that was accepted: %s", self.path, changes)
                continue
            self._count += self._pending.growth_by(changes.blocks, changes.removals)
            self._pending.add(sequence, changes.blocks, changes.removals)
            self._last_removal = max([self._last_removal, *(gone.number for gone in changes.removals)])
        if self._sequence > self._tables.sequence:
            self._write(len(self._pending))

    def _write(self, count: int) -> None:
        """Write the oldest pending records and all removals to the tables: one transaction.

        If they are in the journal, they are on disk already, and this transaction needs no fsync of its own:
        a crash of the machine that undoes it leaves their batches in the journal.
        """
        blocks, removals = self._pending.blocks(count), self._pending.removals()
        forget_up_to = removals[-1].number - self._max_tombstones if removals else 0
        sequence = self._pending.last_written(count, self._sequence)
        with nullcontext() if self._period else without_fsync(self._database):
            self._tables.write(blocks, removals, sequence, forget_up_to)
        self._pending.forget(count)
        if not self._pending:
            self._count = self._tables.sessions
        self._journal.forget(sequence)
        pages = 2 * sum(map(len, blocks)) + 4 * len(removals) + 4
        self._log_bytes += sum(sum(map(len, block.bodies)) for block in blocks) + pages * PAGE_BYTES

    @property
    def _journal_is_full(self) -> bool:
        is_long = self._journal.nbytes > JOURNAL_BYTES or len(self._pending) > PENDING_SESSIONS
        return is_long and not self._period

    def _flush(self, count: int = sys.maxsize) -> None:
        """Write the newest change of each session to the tables.

        Parameters
        ----------
        count : of how many sessions, those that were changed longest ago
        """
        if not self._pending:
            return
        try:
            with self._errors_as_store_failed("keep a batch"):
                self._write(count)
        except StoreFailed:
            self._failing_since = self._failing_since or time.monotonic()
            raise
        self._failing_since = None
        if self._period:
            self._write_mark()

    def _write_mark(self) -> None:
        """Note the last batch, which is on disk in any case. Where this fails, `tend` tries again."""
        try:
            self._mark.write(self._sequence, self._clock())
        except OSError as error:
            log.error("store %s could not write its commit mark: %s", self.path, error)

    def _is_remembered(self, stored: StoredTombstone) -> bool:
        """Whether a tombstone is among the newest and young enough to be kept."""
        is_young = stored.tombstone.removed >= self._oldest_tombstone()
        return is_young and stored.number > self._last_removal - self._max_tombstones

    def _oldest_tombstone(self) -> float:
        return max(self._clock() - self._tombstone_seconds, 0.0)

    def _check_file(self) -> None:
        """Raise StoreFailed if the path no longer names the file that was opened."""
        try:
            is_there = self.path.stat().st_ino == self._inode
        except OSError:
            is_there = False
        self._is_lost = not is_there
        if self._is_lost:
            raise StoreFailed("the store's file was removed or replaced while the server was running")

    def _probe(self) -> None:
        """Test whether the disk has space again: write as many bytes as the write that failed."""
        with self._errors_as_store_failed("write a trial", self._failed_bytes):
            self._database.execute("INSERT INTO probe VALUES (zeroblob(?))", (self._failed_bytes,))
            self._database.execute("DELETE FROM probe")
        self._failed_bytes = 0

    def _settle(self) -> None:
        settle(self._database)
        self._is_settled = True

    @contextmanager
    def _errors_as_store_failed(self, task: str, size: int = PAGE_BYTES) -> Iterator[None]:
        """Turn errors of SQLite, of files and of decoding into `StoreFailed`, and roll back.

        Where that fails, too, it comes before anything else in the next call: a commit within a transaction
        that has failed would never be on disk, and one behind `without_fsync` would not wait for it.

        Clients see this error, so it must not contain the file's path.
        """
        try:
            if not self._is_settled:
                self._settle()
            yield
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, OSError) as error:
            self._is_settled = False
            with suppress(sqlite3.Error):
                self._settle()
            why = reason(error) if isinstance(error, sqlite3.Error) else str(error)
            if not self._failed_bytes:
                log.error("store %s could not %s: %s", self.path, task, why)
            self._failed_bytes = max(size, PAGE_BYTES, self._failed_bytes)
            raise StoreFailed(f"the store could not {task}: {why}") from error


def _last_run(path: Path) -> float | None:
    try:
        return last_run(path)
    except ConfigError:  # damaged, and the loss was accepted
        return None


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read_time(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
