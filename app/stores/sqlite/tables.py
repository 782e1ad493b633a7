"""The tables of the SQLite file, and the statements that read and write them.

Python's `sqlite3` releases the interpreter lock for each row that it reads, and then competes for it with
the event loop. So many rows are read as one row of JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import msgspec

from app.errors import SessionDamaged
from app.session.label_index import MAX_CANDIDATES
from app.session.names import id_of, name_range
from app.session.rows import labels_of
from app.stores import Block, NamePage, NamesQuery, Record, Tombstone
from app.stores.sqlite.records import (
    checksums,
    microseconds,
    record_checksum,
    seconds,
    tombstone_checksum,
)
from app.stores.sqlite.schema import state_checksum

# Text that is not UTF-8 is a ValueError.
UNREADABLE = (msgspec.MsgspecError, ValueError, sqlite3.DatabaseError)

TOMBSTONES_PER_CALL = 1000  # removed at most by one call of `forget_tombstones`
DEADLINES_PER_CALL = 1000  # checked at least by one call of `expired`
IDS_PER_PAGE = 10_000  # while an index is read from end to end

GIVEN_IDS = "(SELECT value FROM json_each(?))"

RECORDS = f"""SELECT json_group_array(json_array(id, fingerprint, position, deadline, crc, hex(body)))
FROM sessions WHERE id IN {GIVEN_IDS}"""
TOMBSTONES = f"""SELECT json_group_array(json_array(number, id, position, why, buried, crc))
FROM tombstones WHERE id IN {GIVEN_IDS}"""
TOMBSTONE_PAGE = """SELECT json_group_array(json_array(number, id, position, why, buried, crc)) FROM (
    SELECT * FROM tombstones WHERE number > ? ORDER BY number LIMIT ?
)"""
PRESENT = f"SELECT count(*) FROM sessions WHERE id IN {GIVEN_IDS}"
FINGERPRINTS = """WITH RECURSIVE models (print) AS (
    SELECT min(fingerprint) FROM sessions
    UNION ALL
    SELECT (SELECT min(fingerprint) FROM sessions WHERE fingerprint > print)
    FROM models WHERE print IS NOT NULL
) SELECT json_group_array(print) FROM models WHERE print IS NOT NULL"""
NAMES, NAMES_DOWN = (
    f"""SELECT json_group_array(id) FROM (
    SELECT id FROM sessions WHERE fingerprint = ? AND id > ? AND id < ? ORDER BY id {direction} LIMIT ?
)"""
    for direction in ("ASC", "DESC")
)
IDS = "SELECT json_group_array(id) FROM (SELECT id FROM sessions WHERE id > ? ORDER BY id LIMIT ?)"
DUE = """SELECT json_group_array(json_array(due, session, id, deadline)) FROM (
    SELECT due, session, id, deadline FROM expiries LEFT JOIN sessions ON sessions.rowid = session
    WHERE due < ? ORDER BY due LIMIT ?
)"""
OLD_TOMBSTONES = """DELETE FROM tombstones WHERE number IN (
    SELECT number FROM (SELECT number, buried FROM tombstones ORDER BY number LIMIT ?) WHERE buried < ?
)"""
ANY_TOMBSTONE = "SELECT EXISTS (SELECT 1 FROM tombstones)"

UPSERT = """INSERT INTO sessions (id, fingerprint, position, deadline, crc, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET {}
    position = excluded.position, deadline = excluded.deadline, crc = excluded.crc, body = excluded.body
"""
# A session's model rarely changes, and an update that names the column also writes the index of names. So
# KEEP_SESSION skips sessions that had another model, and MOVE_SESSION writes those.
KEEP_SESSION = UPSERT.format("") + "WHERE fingerprint = excluded.fingerprint"
MOVE_SESSION = (
    UPSERT.format("fingerprint = excluded.fingerprint,") + "WHERE fingerprint <> excluded.fingerprint"
)
REMOVE_SESSION = "DELETE FROM sessions WHERE id = ?"
REMOVE_TOMBSTONE = "DELETE FROM tombstones WHERE id = ?"
FORGET_TOMBSTONES = "DELETE FROM tombstones WHERE number <= ?"
KEEP_TOMBSTONE = "INSERT INTO tombstones (number, id, position, why, buried, crc) VALUES (?, ?, ?, ?, ?, ?)"
FORGET_BATCHES = "DELETE FROM journal WHERE sequence <= ?"
LABELLED, LABELLED_DOWN = (
    f"""SELECT json_group_array(json_array(id, fingerprint)) FROM (
    SELECT sessions.id, fingerprint FROM labels JOIN sessions ON sessions.id = labels.id
    WHERE label = ? AND labels.id > ? AND labels.id < ? ORDER BY labels.id {direction} LIMIT ?
)"""
    for direction in ("ASC", "DESC")
)
LABELS_OF = f"SELECT json_group_array(json_array(id, label)) FROM labels WHERE id IN {GIVEN_IDS}"
ANY_LABEL = "SELECT EXISTS (SELECT 1 FROM labels)"
ADD_LABEL = "INSERT INTO labels (id, label) VALUES (?, ?)"
REMOVE_LABEL = "DELETE FROM labels WHERE id = ? AND label = ?"
KEEP_STATE = "UPDATE state SET sequence = ?, removals = ?, crc = ?"

_records = msgspec.json.Decoder(list[tuple[str, str, int, int | None, int, str]]).decode
_tombstones = msgspec.json.Decoder(list[tuple[int, str, int, str, int, int]]).decode
_due = msgspec.json.Decoder(list[tuple[int, int, str | None, int | None]]).decode
_pairs = msgspec.json.Decoder(list[tuple[str, str]]).decode
_texts = msgspec.json.Decoder(list[str]).decode


@dataclass(frozen=True, slots=True)
class StoredTombstone:
    """A tombstone and its number, in the order of removals."""

    tombstone: Tombstone
    number: int


class Tables:
    """The tables of a store. The methods do not catch `sqlite3.Error`.

    Parameters
    ----------
    database : opened by `schema.open_database`
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.text_factory = bytes  # so that the decoders above report text that is not UTF-8
        self.sequence: int
        self.last_removal: int
        self.sessions: int
        self.generation, self.sequence, self.last_removal, self.sessions = database.execute(
            "SELECT generation, sequence, removals, sessions FROM state"
        ).fetchone()
        self.has_tombstones = bool(database.execute(ANY_TOMBSTONE).fetchone()[0])
        self._has_labels = bool(database.execute(ANY_LABEL).fetchone()[0])

    def write(
        self, blocks: Sequence[Block], removals: Sequence[StoredTombstone], sequence: int, forget_up_to: int
    ) -> None:
        """Keep all of this, or raise and keep none: one transaction.

        Parameters
        ----------
        sequence : of the last batch of which the tables then have everything; it and those before leave the
            journal
        forget_up_to : tombstones up to this number leave the table
        """
        sessions = [row for block in blocks for row in _session_rows(block)]
        tombstones = [_tombstone_row(removal) for removal in removals]
        labels = {
            (session, label)
            for block in blocks
            for session, body in zip(block.sessions, block.bodies, strict=True)
            for label in labels_of(body)
        }
        last_removal = removals[-1].number if removals else self.last_removal
        check = state_checksum(self.generation, sequence, last_removal)
        database = self._database
        with self._transaction():
            if sessions and database.executemany(KEEP_SESSION, sessions).rowcount < len(sessions):
                database.executemany(MOVE_SESSION, sessions)
            if removals:
                ids = [(removal.tombstone.session,) for removal in removals]
                database.executemany(REMOVE_SESSION, ids)
                database.executemany(REMOVE_TOMBSTONE, ids)
                database.execute(FORGET_TOMBSTONES, (forget_up_to,))
                database.executemany(KEEP_TOMBSTONE, tombstones)
            if labels or self._has_labels:
                changed = [session for block in blocks for session in block.sessions]
                changed += [removal.tombstone.session for removal in removals]
                self._write_labels(changed, labels)
            database.execute(FORGET_BATCHES, (sequence,))
            database.execute(KEEP_STATE, (sequence, last_removal, check))
            # Read before the commit, so that an error here still means that nothing was kept.
            (count,) = database.execute("SELECT sessions FROM state").fetchone()
        self.sequence, self.last_removal, self.sessions = sequence, last_removal, count
        self._has_labels = self._has_labels or bool(labels)
        if removals:
            self.has_tombstones = True

    def _write_labels(self, sessions: Sequence[str], labels: set[tuple[str, str]]) -> None:
        """Give these sessions these labels and no others. Nothing is written where nothing has changed."""
        before = set(_pairs(self._value(LABELS_OF, json.dumps(sessions))))
        self._database.executemany(REMOVE_LABEL, before - labels)
        self._database.executemany(ADD_LABEL, labels - before)

    def count_present(self, sessions: Sequence[str]) -> int:
        """How many of these sessions are in the table."""
        (count,) = self._database.execute(PRESENT, (json.dumps(sessions),)).fetchone()
        return int(count)

    def records(self, sessions: Sequence[str]) -> tuple[list[Record], dict[str, SessionDamaged]]:
        """The records of these sessions, and the errors of damaged records. Unknown sessions have neither."""
        try:
            return self._records(sessions)
        except UNREADABLE as error:
            if not _is_damage(error):
                raise
        records, damaged = [], {}
        for session in sessions:  # one at a time: a damaged record must not hide the others
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

    def load_tombstones(self, sessions: Sequence[str]) -> list[StoredTombstone]:
        """The tombstones of these sessions. A damaged one is left out."""
        if not sessions or not self.has_tombstones:
            return []
        return [
            StoredTombstone(tombstone, number)
            for number, tombstone, is_sound in self._read_tombstones(TOMBSTONES, json.dumps(sessions))
            if is_sound
        ]

    def tombstones_after(self, number: int, limit: int) -> tuple[list[Tombstone], int]:
        """A page of all tombstones, and the number of its last; 0 behind the last page. None is damaged."""
        page = list(self._read_tombstones(TOMBSTONE_PAGE, number, limit))
        sound = [tombstone for _, tombstone, is_sound in page if is_sound]
        return sound, page[-1][0] if page else 0

    def _read_tombstones(self, statement: str, *values: object) -> Iterator[tuple[int, Tombstone, bool]]:
        """Number, tombstone, and whether its checksum is right."""
        for number, session, position, why, removed, crc in _tombstones(self._value(statement, *values)):
            tombstone = Tombstone(
                session, position, "expired" if why == "expired" else "deleted", seconds(removed)
            )
            yield number, tombstone, tombstone_checksum(tombstone) == crc

    def forget_tombstones(self, before: float) -> None:
        """Remove up to `TOMBSTONES_PER_CALL` tombstones from before this time, in seconds since 1970."""
        if self.has_tombstones:
            self._database.execute(OLD_TOMBSTONES, (TOMBSTONES_PER_CALL, microseconds(before)))
            self.has_tombstones = bool(self._database.execute(ANY_TOMBSTONE).fetchone()[0])

    def names(self, query: NamesQuery) -> NamePage:
        """See `Store.names`, of a query without labels. Reads at most a page of names of each model."""
        statement = NAMES_DOWN if query.descending else NAMES
        pages = [
            [(name, model) for name in _texts(self._value(statement, model, *query.span, query.limit))]
            for model in filter(query.fingerprint_filter, _texts(self._value(FINGERPRINTS)))
        ]
        return query.merge(pages)

    def labelled(self, query: NamesQuery) -> NamePage:
        """See `Store.names`, of a query with labels."""
        count = max(query.limit, MAX_CANDIDATES)
        statement = LABELLED_DOWN if query.descending else LABELLED
        candidates = _pairs(self._value(statement, query.labels[0], *query.span, count))
        having: dict[str, set[str]] = {}
        if len(query.labels) > 1:
            names = [name for name, _ in candidates]
            for name, label in _pairs(self._value(LABELS_OF, json.dumps(names))):
                having.setdefault(name, set()).add(label)
        found = [
            (name, model)
            for name, model in candidates
            if query.fingerprint_filter(model) and not set(query.labels[1:]).difference(having.get(name, ()))
        ]
        return NamePage.of(found, query.limit, candidates[-1][0] if len(candidates) == count else None)

    def expired(self, now: float, limit: int) -> list[str]:
        """Up to `limit` sessions whose deadline has passed.

        A session that was used since its entry was written gets an entry with its new deadline.
        """
        late: list[str] = []
        time = microseconds(now)
        due = _due(self._value(DUE, time, max(limit, DEADLINES_PER_CALL)))
        moved: list[tuple[int, int]] = []
        kept: list[tuple[int, int]] = []
        for when, row, session, deadline in due:
            if session is not None and deadline is not None and time is not None and deadline < time:
                late.append(session)
                continue
            moved.append((when, row))
            if session is not None and deadline is not None:
                kept.append((deadline, row))
        if moved:
            self._move_expiries(moved, kept)
        return list(dict.fromkeys(late))[:limit]

    def ids(self) -> Iterator[str]:
        """Every id, from the index that look-ups use."""

        def page(after: str) -> list[str]:
            return _texts(self._value(IDS, after, IDS_PER_PAGE))

        yield from _walk(page)

    def listed_ids(self) -> Iterator[str]:
        """Every id, from the index that listings use."""
        for fingerprint in _texts(self._value(FINGERPRINTS)):
            yield from _walk(partial(self._listed, fingerprint))

    def _listed(self, fingerprint: str, after: str) -> list[str]:
        return _texts(self._value(NAMES, fingerprint, after, name_range("", "")[1], IDS_PER_PAGE))

    def _move_expiries(self, moved: Sequence[tuple[int, int]], kept: Sequence[tuple[int, int]]) -> None:
        with self._transaction():
            self._database.executemany("DELETE FROM expiries WHERE due = ? AND session = ?", moved)
            self._database.executemany("INSERT OR IGNORE INTO expiries VALUES (?, ?)", kept)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite may have rolled back itself
                self._database.execute("ROLLBACK")
            raise

    def _records(self, sessions: Sequence[str]) -> tuple[list[Record], dict[str, SessionDamaged]]:
        records: list[Record] = []
        damaged: dict[str, SessionDamaged] = {}
        wanted = set(sessions)  # a damaged index may return the row of another session
        for session, fingerprint, position, deadline, crc, body in _records(
            self._value(RECORDS, json.dumps(sessions))
        ):
            record = Record(session, fingerprint, seconds(deadline), bytes.fromhex(body), position)
            if session in wanted and record_checksum(record) == crc:
                records.append(record)
            else:
                damaged[session] = damage_error(session)
        return records, damaged

    def _value(self, statement: str, *values: object) -> bytes:
        """The only value of a statement's only row."""
        (value,) = self._database.execute(statement, values).fetchone()
        return value if isinstance(value, bytes) else str(value).encode()


def _walk(page: Callable[[str], list[str]]) -> Iterator[str]:
    after = ""
    while names := page(after):
        if names[-1] <= after:
            raise sqlite3.DatabaseError("an index is out of order")
        yield from names
        after = names[-1]


def damage_error(session: str) -> SessionDamaged:
    """The refusal of a session whose record cannot be trusted."""
    return SessionDamaged(
        f"what is stored of session {id_of(session)!r} is damaged: its checksum does not match; restore a "
        "copy of the store"
    )


def name_sum(names: Iterable[str]) -> tuple[int, int]:
    """The number of names, and the sum of their checksums. The order of the names does not matter."""
    count = total = 0
    for name in names:
        count += 1
        total += crc32(name.encode())
    return count, total


def _is_damage(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
    return bool(name.startswith(("SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_MISMATCH")))


def _session_rows(block: Block) -> Iterator[tuple[object, ...]]:
    """Rows of the table `sessions`."""
    models, deadlines = [block.fingerprint] * len(block), map(microseconds, block.deadlines)
    return zip(
        block.sessions, models, block.positions, deadlines, checksums(block), block.bodies, strict=True
    )


def _tombstone_row(removal: StoredTombstone) -> tuple[object, ...]:
    gone = removal.tombstone
    removed = microseconds(gone.removed)
    return removal.number, gone.session, gone.position, gone.reason, removed, tombstone_checksum(gone)
