"""The number of the last committed batch, in a small file beside the database.

SQLite takes a write-ahead log that is damaged, cut short or missing for an older state of the database, and
says nothing. This file says how far the log must reach. It is written after each commit, without waiting
for the disk, so it never claims more than is committed; `sync` makes it durable behind the replies.

Two slots of 32 bytes are written in turns, so that a write cut short leaves the other. A third says how long
the server has run behind its last commit: a start compares the clock with it (`app.engine.idle_time`).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from app.errors import ConfigError

SUFFIX = "-mark"
# Without the file's times, which took 1.6 ms and not 0.6, while nothing is committed. Its size never changes.
_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
SLOT = struct.Struct("<4sqQd")  # magic, generation, sequence, time of the commit
CHECK = struct.Struct("<I")  # CRC-32 of the slot
SLOT_BYTES = 32
RUN_SLOT = 2
MAGIC = b"CrMk"


@dataclass(frozen=True, slots=True)
class LastCommit:
    """What the mark says: the database's generation, its last batch, and when that was committed."""

    generation: int
    sequence: int
    committed: float  # seconds since 1970


class CommitMark:
    """The mark of the database at `path`, open for writing.

    Raises
    ------
    OSError : it cannot be opened or written
    """

    def __init__(self, path: Path, last: LastCommit) -> None:
        self._generation = last.generation
        self._file = os.open(mark_path(path), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, 3 * SLOT_BYTES)
        for slot in (0, 1):
            self._write(slot, last)
        os.fsync(self._file)
        _sync_folder(path)
        self._is_durable = True
        self._unwritten: LastCommit | None = None  # the last commit, where `write` has failed

    def write(self, sequence: int, committed: float) -> None:
        """The batch is committed. Does not wait for the disk; where this fails, `sync` tries again."""
        self._unwritten = last = LastCommit(self._generation, sequence, committed)
        self._write(sequence % 2, last)
        self._unwritten, self._is_durable = None, False

    def note_run(self, now: float) -> None:
        """The server runs. Does not wait for the disk, and need not: the last commit is a sign of it, too."""
        self._write(RUN_SLOT, LastCommit(self._generation, 0, now))

    def sync(self) -> None:
        """Wait until the mark is on the disk."""
        if self._unwritten is not None:
            self.write(self._unwritten.sequence, self._unwritten.committed)
        if not self._is_durable:
            _sync_data(self._file)
            self._is_durable = True

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._file)

    def _write(self, slot: int, last: LastCommit) -> None:
        head = SLOT.pack(MAGIC, last.generation, last.sequence, last.committed)
        os.pwrite(self._file, head + CHECK.pack(crc32(head)), slot * SLOT_BYTES)


def mark_path(path: Path) -> Path:
    """Where the mark of the database at `path` is."""
    return path.with_name(path.name + SUFFIX)


def read_mark(path: Path) -> LastCommit | None:
    """What the mark of the database at `path` says; None where there is no mark.

    Raises
    ------
    ConfigError : neither slot can be read
    """
    try:
        data = mark_path(path).read_bytes()
    except FileNotFoundError:
        return None
    slots = [_slot(data[start : start + SLOT_BYTES]) for start in (0, SLOT_BYTES)]
    readable = [slot for slot in slots if slot is not None]
    if not readable:
        raise ConfigError(f"store {path}: {mark_path(path)} is damaged")
    return max(readable, key=lambda slot: slot.sequence)


def last_run(path: Path) -> float | None:
    """When the server last ran, seconds since 1970; None where the mark of the database at `path` is missing.

    Raises
    ------
    ConfigError : it is damaged
    """
    mark = read_mark(path)
    if mark is None:
        return None
    start = RUN_SLOT * SLOT_BYTES
    run = _slot(mark_path(path).read_bytes()[start : start + SLOT_BYTES])
    return mark.committed if run is None else max(mark.committed, run.committed)


def _slot(data: bytes) -> LastCommit | None:
    head, check = data[: SLOT.size], data[SLOT.size : SLOT.size + CHECK.size]
    if len(check) < CHECK.size or CHECK.unpack(check)[0] != crc32(head) or head[:4] != MAGIC:
        return None
    return LastCommit(*SLOT.unpack(head)[1:])


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
