"""The tables of the SQLite file, read and written in few and large statements.

Python's `sqlite3` gives the interpreter lock up for each row that it steps to, and takes it back in
competition with the event loop: a wave read or written row by row takes up to a switch interval a row. So
many rows go in by one statement, and come out as one row, of JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from zlib import crc32

import msgspec

from app.errors import SessionDamaged, StoreFailed
from app.session.names import id_of
from app.stores import Record, Tombstone
from app.stores.sqlite.journal import RecordRef, Removal, checksum, microseconds, seconds

# Text that is not UTF-8 is a ValueError.
UNREADABLE = (msgspec.MsgspecError, ValueError, sqlite3.DatabaseError)

FORGOTTEN = 1000  # tombstones that one fold forgets at most
PRUNED = 16  # waves that leave with one fold at most: a file of an older version may have hundreds

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

# One statement, though it does many things: between two of them the event loop would have the interpreter
# for as long as it wants, and the next wave waits for the fold to end. What is told is JSON, but for the
# bodies, which lie one after the other.
FOLDING = f"""
CREATE TEMP VIEW fold AS SELECT '' AS records, '' AS bodies, '' AS gone, '' AS known, '' AS graves, 0 AS most,
    0 AS oldest, 0 AS sequence, 0 AS sessions, 0 AS buried, 0 AS crc;
CREATE TEMP TRIGGER folding INSTEAD OF INSERT ON fold BEGIN
    INSERT INTO sessions (id, fingerprint, position, deadline, crc, body)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
            json_extract(value, '$[3]'), json_extract(value, '$[4]'),
            substr(NEW.bodies, json_extract(value, '$[5]'), json_extract(value, '$[6]'))
        FROM json_each(NEW.records) WHERE TRUE
        ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, position = excluded.position,
            deadline = excluded.deadline, crc = excluded.crc, body = excluded.body;
    DELETE FROM sessions WHERE id IN (SELECT value FROM json_each(NEW.gone));
    DELETE FROM tombstones WHERE id IN (SELECT value FROM json_each(NEW.known));
    INSERT INTO tombstones (number, id, position, why, buried, crc)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
            json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]')
        FROM json_each(NEW.graves);
    DELETE FROM tombstones WHERE number <= (
        SELECT max(number) FROM (SELECT number, buried FROM tombstones ORDER BY number LIMIT {FORGOTTEN})
        WHERE number <= NEW.most OR buried < NEW.oldest
    );
    UPDATE carryover SET folded = NEW.sequence, sessions = NEW.sessions, buried = NEW.buried, crc = NEW.crc;
    DELETE FROM journal WHERE sequence IN (
        SELECT sequence FROM journal WHERE sequence <= NEW.sequence ORDER BY sequence LIMIT {PRUNED}
    );
END
"""
FOLD = "INSERT INTO fold VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ANY_TOMBSTONE = "SELECT EXISTS (SELECT 1 FROM tombstones)"

_encode = msgspec.json.Encoder().encode
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
        self.removed: int
        self.folded, self.sessions, self.removed = told
        database.executescript(FOLDING)
        self.tombstones = self._has_tombstones()

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
                damaged[session] = damage_error(session)
            else:
                records += found
                damaged |= bad
        return records, damaged

    def load_tombstones(self, sessions: Sequence[str]) -> dict[str, tuple[int, Tombstone]]:
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
            if checksum(tombstone) == crc:
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
        records: Sequence[RecordRef],
        removals: Sequence[Removal],
        without_row: Collection[str],
        sequence: int,
        buried: int,
        forget: tuple[int, int | None],
    ) -> None:
        """Take these in, which makes an end of the journal's waves up to `sequence`, in one statement.

        Parameters
        ----------
        strange : sessions that have no row here
        buried : number of the last tombstone up to there
        forget : tombstones up to this number, or buried before this time, in microseconds since 1970
        """
        alive = [one.block.sessions[i] for one, i in records]
        dead = [removal.tombstone.session for removal in removals]
        gone = [session for session in dead if session not in without_row]
        sessions = self.sessions + sum(session in without_row for session in alive) - len(gone)
        heads, bodies = _told(records)
        known = alive + dead if self.tombstones else []
        told = [_encode(one).decode() for one in (gone, known, list(map(_removal_row, removals)))]
        summary = (sequence, sessions, buried, _summary_check(sequence, sessions, buried))
        self._database.execute(FOLD, (heads, bodies, *told, *forget, *summary))
        self.folded, self.sessions, self.removed = sequence, sessions, buried
        if removals or self.tombstones:
            self.tombstones = self._has_tombstones()

    def _has_tombstones(self) -> bool:
        return bool(self._database.execute(ANY_TOMBSTONE).fetchone()[0])

    def _records(self, sessions: Sequence[str]) -> tuple[list[Record], dict[str, SessionDamaged]]:
        records: list[Record] = []
        damaged: dict[str, SessionDamaged] = {}
        for session, fingerprint, position, deadline, crc, body in _records(
            self._one(RECORDS, json.dumps(sessions))
        ):
            record = Record(session, fingerprint, seconds(deadline), bytes.fromhex(body), position)
            if checksum(record) == crc:
                records.append(record)
            else:
                damaged[session] = damage_error(session)
        return records, damaged

    def _one(self, statement: str, *values: object) -> bytes:
        """The one value of the one row."""
        (value,) = self._database.execute(statement, values).fetchone()
        return value if isinstance(value, bytes) else str(value).encode()


def damage_error(session: str) -> SessionDamaged:
    """The refusal of a session whose record cannot be trusted."""
    return SessionDamaged(
        f"what is stored of session {id_of(session)!r} is damaged: its checksum does not match; restore a "
        "copy of the store"
    )


def _summary_check(folded: int, sessions: int, buried: int) -> int:
    return crc32(b"%d %d %d" % (folded, sessions, buried))


def _is_damage(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
    return bool(name.startswith(("SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_MISMATCH")))


def _told(records: Sequence[RecordRef]) -> tuple[str, bytes]:
    """What `FOLDING` is told of these: heads, and bodies one after the other, the first of them at 1."""
    heads: list[tuple[object, ...]] = []
    bodies: list[bytes] = []
    start = 1
    for one, i in records:
        block, body = one.block, one.block.bodies[i]
        named = (block.sessions[i], block.fingerprint, block.positions[i], one.deadlines[i], one.crcs[i])
        heads.append((*named, start, len(body)))
        bodies.append(body)
        start += len(body)
    return _encode(heads).decode(), b"".join(bodies)


def _removal_row(removal: Removal) -> tuple[object, ...]:
    dead = removal.tombstone
    return removal.number, dead.session, dead.position, dead.reason, microseconds(dead.removed), removal.crc
