"""The journal: the batches that are committed and not in the tables yet, a row for each.

To write a batch as one row takes a quarter of the time of a row for each session. A session that gets a chunk
in every batch then reaches the tables once in many batches.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec

from app.stores import Block
from app.stores.sqlite.tables import StoredTombstone

APPEND = "INSERT INTO journal (sequence, changes, crc) VALUES (?, ?, ?)"
READ = "SELECT sequence, changes, crc FROM journal ORDER BY sequence"


class Changes(msgspec.Struct, array_like=True, frozen=True):
    """What one batch changed."""

    blocks: Sequence[Block]
    removals: Sequence[StoredTombstone]


class DamagedJournal(ValueError):
    """A batch of the journal is missing or cannot be read."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Changes).decode


class Journal:
    """The table `journal`. The methods do not catch `sqlite3.Error`.

    Parameters
    ----------
    database : opened by `schema.open_database`
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._sizes: deque[tuple[int, int]] = deque()  # sequence and bytes of each batch
        self.nbytes = 0

    def append(self, sequence: int, blocks: Sequence[Block], removals: Sequence[StoredTombstone]) -> None:
        """Write a batch: one transaction, one fsync. If this raises, nothing was written."""
        changes = _encode(Changes(blocks, removals))
        self._database.execute(APPEND, (sequence, changes, _checksum(sequence, changes)))
        self._sizes.append((sequence, len(changes)))
        self.nbytes += len(changes)

    def forget(self, last: int) -> None:
        """Note that the batches up to this one were removed from the table, because the tables have them."""
        while self._sizes and self._sizes[0][0] <= last:
            self.nbytes -= self._sizes.popleft()[1]


def read_journal(
    database: sqlite3.Connection, in_tables: int
) -> Iterator[tuple[int, Changes | DamagedJournal]]:
    """Every batch, or why there is none in its place.

    Parameters
    ----------
    in_tables : sequence of the last batch that the tables have
    """
    expected = in_tables + 1
    for sequence, changes, crc in database.execute(READ):
        for missing in range(expected, sequence):
            yield missing, DamagedJournal(f"batch {missing} of its journal is missing")
        expected = max(expected, sequence + 1)
        if not isinstance(changes, bytes) or _checksum(sequence, changes) != crc:
            yield sequence, DamagedJournal(f"batch {sequence} of its journal is damaged")
        else:
            try:
                yield sequence, _decode(changes)
            except msgspec.MsgspecError:
                yield sequence, DamagedJournal(f"batch {sequence} of its journal is damaged")


def _checksum(sequence: int, changes: bytes) -> int:
    return crc32(changes, crc32(b"%d " % sequence))
