"""The tables of the SQLite file, read and written in few and large statements.

Python's `sqlite3` gives the interpreter lock up for each row that it steps to, and takes it back in
competition with the event loop: a wave read or written row by row takes up to a switch interval a row. So
many rows go in by one statement, and come out as one row, of JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar
from zlib import crc32

import msgspec

from app.errors import SessionDamaged, StoreFailed
from app.names import shown
from app.stores import Record, Tombstone
from app.stores.journal import Grave, Place, Sealed, check, microseconds, seconds

T = TypeVar("T")

# Text that is not UTF-8 is a ValueError.
UNREADABLE = (msgspec.MsgspecError, ValueError, sqlite3.DatabaseError)

BATCH = 128  # rows in one statement
FORGOTTEN = 1000  # tombstones that one fold forgets at most

UPSERT = """INSERT INTO sessions (id, fingerprint, position, deadline, crc, body) VALUES {}
ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, position = excluded.position,
deadline = excluded.deadline, crc = excluded.crc, body = excluded.body"""
BURY = "INSERT INTO tombstones (number, id, position, why, buried, crc) VALUES {}"
THESE = "(SELECT value FROM json_each(?))"

RECORDS = f"""SELECT json_group_array(json_array(id, fingerprint, position, deadline, crc, hex(body)))
FROM sessions WHERE id IN {THESE}"""
TOMBSTONES = f"""SELECT json_group_array(json_array(number, id, position, why, buried, crc))
FROM tombstones WHERE id IN {THESE}"""
PRESENT = f"SELECT json_group_array(id) FROM sessions WHERE id IN {THESE}"
NAMES = """SELECT json_group_array(json_array(id, fingerprint))
FROM (SELECT id, fingerprint FROM sessions WHERE id > ? ORDER BY id LIMIT ?)"""
EXPIRED = """SELECT json_group_array(id)
FROM (SELECT id FROM sessions WHERE deadline < ? ORDER BY deadline LIMIT ?)"""
SUMMARY = "UPDATE carryover SET folded = ?, sessions = ?, buried = ?, crc = ?"
FORGET = """DELETE FROM tombstones WHERE number <= (SELECT max(number) FROM
(SELECT number, buried FROM tombstones ORDER BY number LIMIT ?) WHERE number <= ? OR buried < ?)"""

_records = msgspec.json.Decoder(list[tuple[str, str, int, int | None, int, str]]).decode
_tombstones = msgspec.json.Decoder(list[tuple[int, str, int, str, int, int]]).decode
_names = msgspec.json.Decoder(list[tuple[str, str]]).decode
_ids = msgspec.json.Decoder(list[str]).decode


class Tables:
    """The folded part of a store. Every method raises `sqlite3.Error` as it comes.

    Parameters
    ----------
    database : opened by `layout.opened`

    Raises
    ------
    StoreFailed : what is said of the tables is damaged
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.text_factory = bytes  # a damaged text is not even UTF-8; the decoders below tell
        *told, crc = database.execute("SELECT folded, sessions, buried, crc FROM carryover").fetchone()
        if _summary_check(*told) != crc:
            raise StoreFailed("what it says of its tables is damaged: the checksum does not match")
        self.folded: int
        self.sessions: int
        self.buried: int
        self.folded, self.sessions, self.buried = told
        self.tombstones: int = database.execute("SELECT count(*) FROM tombstones").fetchone()[0]

    def present(self, sessions: Sequence[str]) -> set[str]:
        """Those of these that have a row, alive or not."""
        return set(_ids(self._one(PRESENT, json.dumps(sessions)))) if sessions else set()

    def records(self, sessions: Sequence[str]) -> tuple[list[Record], dict[str, SessionDamaged]]:
        """The records of those that are here, and which of them are damaged."""
        try:
            return self._records(sessions)
        except UNREADABLE as error:
            if not _is_damage(error):
                raise
        records, damaged = [], {}
        for session in sessions:  # one by one: the others go on
            try:
                found, bad = self._records([session])
            except UNREADABLE as error:
                if not _is_damage(error):
                    raise
                damaged[session] = damage(session)
            else:
                records += found
                damaged |= bad
        return records, damaged

    def remains(self, sessions: Sequence[str]) -> dict[str, tuple[int, Tombstone]]:
        """Tombstones and their numbers, by session. A damaged one is none."""
        if not sessions or not self.tombstones:
            return {}
        found = {}
        for number, session, position, why, buried, crc in _tombstones(
            self._one(TOMBSTONES, json.dumps(sessions))
        ):
            tombstone = Tombstone(
                session, position, "expired" if why == "expired" else "deleted", seconds(buried)
            )
            if check(tombstone) == crc:
                found[session] = number, tombstone
        return found

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        """(id, fingerprint) of up to `limit` rows behind `after`, in order."""
        return _names(self._one(NAMES, after, limit))

    def expired(self, now: float, limit: int) -> list[str]:
        """Up to `limit` sessions whose deadline has passed."""
        return _ids(self._one(EXPIRED, microseconds(now), limit))

    def fold(
        self,
        records: Sequence[Place],
        graves: Sequence[Grave],
        strange: Collection[str],
        sequence: int,
        buried: int,
        forget: tuple[int, float],
    ) -> None:
        """Take these in, which makes an end of the journal's waves up to `sequence`, in one transaction.

        Parameters
        ----------
        strange : sessions that have no row here
        buried : number of the last tombstone up to there
        forget : tombstones up to this number, or buried before this time
        """
        alive = [one.block.sessions[i] for one, i in records]
        dead = [grave.tombstone.session for grave in graves]
        gone = [session for session in dead if session not in strange]
        born = sum(session in strange for session in alive)
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        self._insert(UPSERT, 6, [_record_row(*place) for place in records])
        if gone:
            run(f"DELETE FROM sessions WHERE id IN {THESE}", (json.dumps(gone),))
        tombstones = self.tombstones
        if tombstones:
            known = json.dumps(alive + dead)
            tombstones -= run(f"DELETE FROM tombstones WHERE id IN {THESE}", (known,)).rowcount
        self._insert(BURY, 6, [_grave_row(grave) for grave in graves])
        tombstones += len(graves)
        if tombstones:
            tombstones -= run(FORGET, (FORGOTTEN, *forget)).rowcount
        sessions = self.sessions + born - len(gone)
        run(SUMMARY, (sequence, sessions, buried, _summary_check(sequence, sessions, buried)))
        run("COMMIT")
        self.folded, self.sessions, self.buried, self.tombstones = sequence, sessions, buried, tombstones

    def _records(self, sessions: Sequence[str]) -> tuple[list[Record], dict[str, SessionDamaged]]:
        records: list[Record] = []
        damaged: dict[str, SessionDamaged] = {}
        for session, fingerprint, position, deadline, crc, body in _records(
            self._one(RECORDS, json.dumps(sessions))
        ):
            record = Record(session, fingerprint, seconds(deadline), bytes.fromhex(body), position)
            if check(record) == crc:
                records.append(record)
            else:
                damaged[session] = damage(session)
        return records, damaged

    def _insert(self, statement: str, width: int, rows: Sequence[tuple[object, ...]]) -> None:
        place = f"({', '.join('?' * width)})"
        for part in _batches(rows):
            values = [value for row in part for value in row]
            self._database.execute(statement.format(", ".join([place] * len(part))), values)

    def _one(self, statement: str, *values: object) -> bytes:
        """The one value of the one row."""
        (value,) = self._database.execute(statement, values).fetchone()
        return value if isinstance(value, bytes) else str(value).encode()


def damage(session: str) -> SessionDamaged:
    """The refusal of a session whose record cannot be trusted."""
    return SessionDamaged(
        f"what is stored of session {shown(session)!r} is damaged: its checksum does not match; restore a "
        "copy of the store"
    )


def _summary_check(folded: int, sessions: int, buried: int) -> int:
    return crc32(b"%d %d %d" % (folded, sessions, buried))


def _is_damage(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
    return bool(name.startswith(("SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_MISMATCH")))


def _record_row(one: Sealed, i: int) -> tuple[object, ...]:
    block = one.block
    return (
        block.sessions[i],
        block.fingerprint,
        block.positions[i],
        one.deadlines[i],
        one.crcs[i],
        block.bodies[i],
    )


def _grave_row(grave: Grave) -> tuple[object, ...]:
    dead = grave.tombstone
    return grave.number, dead.session, dead.position, dead.why, microseconds(dead.buried), grave.crc


def _batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
