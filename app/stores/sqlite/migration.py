"""Takes over a file of layout 1, which kept batches in a journal before it folded them into the tables.

A batch was one row of the table `journal`: `heads`, JSON that says whose records these are, and `bodies`, the
records one after the other. The table `carryover` said which batches were folded already.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal
from zlib import crc32

import msgspec

from app.errors import ConfigError

UPSERT = """INSERT INTO sessions (id, fingerprint, position, deadline, crc, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, position = excluded.position,
    deadline = excluded.deadline, crc = excluded.crc, body = excluded.body"""
REMOVE = "DELETE FROM sessions WHERE id = ?"
FORGET = "DELETE FROM tombstones WHERE id = ?"
BURY = "INSERT INTO tombstones (number, id, position, why, buried, crc) VALUES (?, ?, ?, ?, ?, ?)"
DROP = ("DROP TABLE journal", "DROP TABLE carryover", "DROP INDEX sessions_deadline")


class RecordHead(msgspec.Struct, array_like=True, frozen=True):
    """What the heads say of a record."""

    session: str
    model: int  # index of its fingerprint
    position: int
    deadline: int | None  # microseconds since 1970
    size: int
    crc: int


class TombstoneHead(msgspec.Struct, array_like=True, frozen=True):
    """What the heads say of a tombstone."""

    session: str
    position: int
    reason: Literal["expired", "deleted"]
    removed: float  # seconds since 1970
    crc: int


class Heads(msgspec.Struct, frozen=True):
    """What one batch of the journal holds."""

    models: list[str]
    records: list[RecordHead]
    tombstones: list[TombstoneHead]


_decode = msgspec.json.Decoder(Heads).decode


def upgrade(database: sqlite3.Connection, path: Path) -> None:
    """Fold what the journal holds into the tables, and drop what this layout has no use for.

    Raises
    ------
    ConfigError : a batch is missing or damaged
    sqlite3.Error
    """
    row = database.execute("SELECT folded, sessions, buried, crc FROM carryover").fetchone()
    if row is None or crc32(b"%s %s %s" % tuple(str(value).encode() for value in row[:3])) != row[3]:
        raise ConfigError(
            f"store {path} cannot be used: what it says of its tables is damaged: the checksum does not "
            "match; restore a copy"
        )
    sequence, _, removals, _ = row
    journal = database.execute(
        "SELECT sequence, heads, crc, bodies FROM journal WHERE sequence > ? ORDER BY sequence", (sequence,)
    )
    for number, heads, crc, bodies in journal.fetchall():
        sequence += 1
        if number != sequence:
            raise ConfigError(
                f"store {path} cannot be used: batch {sequence} of its journal is missing; restore a copy"
            )
        if not isinstance(heads, bytes) or crc32(heads, crc32(b"%d " % number)) != crc:
            raise _damaged(path, number, "the checksum does not match")
        try:
            batch = _decode(heads)
        except msgspec.MsgspecError as error:
            raise _damaged(path, number, str(error)) from error
        if sum(head.size for head in batch.records) != len(bodies):
            raise _damaged(path, number, "it is cut short")
        removals = _fold(database, batch, bodies, removals)
    for statement in DROP:
        database.execute(statement)


def counts(database: sqlite3.Connection) -> tuple[int, int]:
    """How many sessions the tables hold, and the number of the newest tombstone."""
    (sessions,) = database.execute("SELECT count(*) FROM sessions").fetchone()
    (removals,) = database.execute("SELECT coalesce(max(number), 0) FROM tombstones").fetchone()
    return sessions, removals


def _fold(database: sqlite3.Connection, batch: Heads, bodies: bytes, removals: int) -> int:
    """Put one batch into the tables. Returns the number of its last tombstone."""
    start, rows = 0, []
    for head in batch.records:
        body = bodies[start : start + head.size]
        start += head.size
        rows.append((head.session, batch.models[head.model], head.position, head.deadline, head.crc, body))
    database.executemany(UPSERT, rows)
    database.executemany(FORGET, [(head.session,) for head in batch.records])
    gone = [(head.session,) for head in batch.tombstones]
    database.executemany(REMOVE, gone)
    database.executemany(FORGET, gone)
    database.executemany(
        BURY,
        [
            (number, head.session, head.position, head.reason, round(head.removed * 1e6), head.crc)
            for number, head in enumerate(batch.tombstones, removals + 1)
        ],
    )
    return removals + len(batch.tombstones)


def _damaged(path: Path, number: int, why: str) -> ConfigError:
    return ConfigError(
        f"store {path} cannot be used: batch {number} of its journal is damaged: {why}; restore a copy"
    )
