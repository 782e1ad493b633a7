"""The SQLite file: its tables, how it is opened, and every reason to refuse it.

It is opened with an exclusive lock that the operating system drops when the process dies: one writer, one
connection. Before that it is read without being changed, so that a file that is refused stays as it is.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

from app.errors import ConfigError
from app.stores.sqlite import migration

APPLICATION = 0x43727279  # "Crry", in the header of the file
LAYOUT = 4  # raised when a table changes
JOURNAL_LAYOUT = 3  # the first with the table `journal`
STATE_LAYOUT = 2  # the first with the table `state`
FULL = 2  # of `PRAGMA synchronous`: a commit waits for the disk
PAGE_BYTES = 4096
LOCK_SECONDS = 2.0  # that a process which is just ending is waited for

STATE = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL, -- of this file, at random
    sequence INTEGER NOT NULL,   -- of the last batch of which the other tables have everything
    removals INTEGER NOT NULL,   -- number of the last tombstone
    crc INTEGER NOT NULL,        -- CRC-32 of "generation sequence removals"
    sessions INTEGER NOT NULL,   -- rows of that table
    is_open INTEGER NOT NULL     -- 1 from start to stop: the file beside it must say how far the log reaches
);
"""
TABLES = """
CREATE TABLE sessions (
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    position INTEGER NOT NULL,
    deadline INTEGER,            -- microseconds since 1970; NULL: never
    crc INTEGER NOT NULL,        -- CRC-32 of all the others
    body BLOB NOT NULL
);
CREATE TABLE tombstones (
    number INTEGER PRIMARY KEY,  -- in the order of removals
    id TEXT NOT NULL UNIQUE,
    position INTEGER NOT NULL,
    why TEXT NOT NULL,
    buried INTEGER NOT NULL,     -- microseconds since 1970
    crc INTEGER NOT NULL
);
CREATE TABLE probe (bytes BLOB NOT NULL);
"""

JOURNAL = """
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY, -- of a committed batch that comes after that of `state`
    changes BLOB NOT NULL,        -- MessagePack, see `journal.Changes`
    crc INTEGER NOT NULL          -- CRC-32 of the sequence and the changes
);
"""

# Of the sessions in the table `sessions`; their records have them too.
LABELS = """
CREATE TABLE labels (
    id TEXT NOT NULL,
    label TEXT NOT NULL,         -- name:value
    PRIMARY KEY (id, label)
) WITHOUT ROWID;
CREATE INDEX sessions_by_label ON labels (label, id);
"""

# An index on the deadline itself would be written with every chunk, because every chunk moves its session's
# deadline. `expiries` has the deadline that a session had when it was last looked at: never a later one. The
# triggers do without OR IGNORE: the conflict clause of the statement that fires them takes its place.
INDEXES = """
CREATE INDEX sessions_by_model ON sessions (fingerprint, id);
CREATE TABLE expiries (
    due INTEGER NOT NULL,        -- when to look at the session's deadline
    session INTEGER NOT NULL,    -- its rowid
    PRIMARY KEY (due, session)
) WITHOUT ROWID;
CREATE TRIGGER session_created AFTER INSERT ON sessions BEGIN
    UPDATE state SET sessions = sessions + 1;
    DELETE FROM tombstones WHERE id = NEW.id;
    INSERT INTO expiries SELECT NEW.deadline, NEW.rowid WHERE NEW.deadline IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM expiries WHERE due = NEW.deadline AND session = NEW.rowid);
END;
CREATE TRIGGER session_removed AFTER DELETE ON sessions BEGIN
    UPDATE state SET sessions = sessions - 1;
END;
CREATE TRIGGER session_expires_earlier AFTER UPDATE OF deadline ON sessions
WHEN NEW.deadline < OLD.deadline OR (OLD.deadline IS NULL AND NEW.deadline IS NOT NULL) BEGIN
    INSERT INTO expiries SELECT NEW.deadline, NEW.rowid
        WHERE NOT EXISTS (SELECT 1 FROM expiries WHERE due = NEW.deadline AND session = NEW.rowid);
END;
"""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file says of itself."""

    layout: int  # 0: an empty file
    generation: int = 0
    sequence: int = 0  # of the last committed batch
    is_open: bool = False


def state_checksum(generation: int, sequence: int, removals: int) -> int:
    """The CRC-32 of the table `state`."""
    return crc32(b"%d %d %d" % (generation, sequence, removals))


def inspect_file(path: Path) -> FileState:
    """What the file at `path` says of itself, with its write-ahead log. Changes nothing.

    Raises
    ------
    ConfigError : it cannot be read, or is not a store of this version or an older one
    """
    _check_place(path)
    if not path.exists() or not path.stat().st_size:
        return FileState(0)
    with errors_as_config_error(path), reading(path) as database:
        return _recognise(database, path)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot change the file: when it is closed, it takes no log into the file either."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    beside = [path.with_name(path.name + end) for end in ("-shm", "-wal")]
    created = [file for file in beside if not file.exists()]
    database = sqlite3.connect(address, LOCK_SECONDS, isolation_level=None, uri=True)
    try:
        yield database
    finally:
        database.close()
        for file in created:  # SQLite creates them for every reader, and leaves them
            file.unlink(missing_ok=True)


def open_database(path: Path) -> sqlite3.Connection:
    """The database at `path`, locked; created when there is none, and brought up to this layout.

    Raises
    ------
    ConfigError : naming the file and what is wrong with it
    """
    _check_place(path)
    with errors_as_config_error(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        # Calls come one at a time, though from whichever thread the engine has.
        database = sqlite3.connect(path, LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _lock(database)
            state = _recognise(database, path)
            _prepare(database, path, state.layout)
        except BaseException:
            database.close()
            raise
    return database


@contextmanager
def errors_as_config_error(path: Path) -> Iterator[None]:
    """What SQLite or the operating system raises is a `ConfigError` that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise ConfigError(f"store {path} cannot be used: {reason(error)}") from error
    except OSError as error:
        raise ConfigError(f"store {path} cannot be opened: {error.strerror or error}") from error


def reason(error: sqlite3.Error) -> str:
    """What SQLite says, and what to do about it where that is known."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another process has it open"
    if name == "SQLITE_NOTADB":
        return "it is not a SQLite database, or its first page is damaged"
    if name.startswith("SQLITE_CORRUPT"):
        return f"it is damaged or cut short ({error}); restore a copy"
    return f"{error} ({name})" if name else str(error)


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"store {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"store {path} is a folder; it must name a file")


def _lock(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    database.execute("COMMIT")


def _recognise(database: sqlite3.Connection, path: Path) -> FileState:
    """Refuse what is not ours before a byte of it is changed."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (layout,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION and (tables or application):
        raise ConfigError(f"store {path} is a database of another program; it is left as it is")
    if layout > LAYOUT:
        raise ConfigError(
            f"store {path} was written by a newer version (layout {layout}, this one knows {LAYOUT}): "
            "upgrade, or name another file"
        )
    if not tables or layout < STATE_LAYOUT:
        return FileState(layout if tables else 0)
    row = database.execute("SELECT generation, sequence, removals, crc, is_open FROM state").fetchone()
    if row is None or not all(isinstance(value, int) for value in row):
        raise ConfigError(f"store {path} cannot be used: its table of state is damaged; restore a copy")
    generation, sequence, removals, crc, is_open = row
    if state_checksum(generation, sequence, removals) != crc:
        raise ConfigError(
            f"store {path} cannot be used: its table of state is damaged (the checksum does not match); "
            "restore a copy"
        )
    if layout >= JOURNAL_LAYOUT:
        (last,) = database.execute("SELECT max(sequence) FROM journal").fetchone()
        sequence = max(sequence, last or 0)
    return FileState(layout, generation, sequence, bool(is_open))


@contextmanager
def without_fsync(database: sqlite3.Connection) -> Iterator[None]:
    """Transactions within reach the disk in their order, but only with the fsync of a later one."""
    database.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        database.execute("PRAGMA synchronous = FULL")  # within a transaction this fails: see `settle`


def settle(database: sqlite3.Connection) -> None:
    """End a transaction that has failed, and have the next wait for the disk.

    Raises
    ------
    sqlite3.Error : the transaction is still under way, or the next would not wait: nothing may be committed
    """
    if database.in_transaction:
        database.execute("ROLLBACK")
    database.execute("PRAGMA synchronous = FULL")
    if database.execute("PRAGMA synchronous").fetchone() != (FULL,):
        raise sqlite3.OperationalError("commits would not wait for the disk")


def _prepare(database: sqlite3.Connection, path: Path, layout: int) -> None:
    database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigError(f"store {path}: its file system cannot keep a write-ahead log")
    for setting in (
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        "secure_delete = OFF",
        "temp_store = MEMORY",
        "cache_size = -32768",
        "cell_size_check = ON",
        "trusted_schema = OFF",
    ):
        database.execute(f"PRAGMA {setting}").fetchall()
    if layout == LAYOUT:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        if not layout:
            _run(database, f"PRAGMA application_id = {APPLICATION}; {TABLES}")
        elif layout < STATE_LAYOUT:
            migration.upgrade(database, path)
        if layout < STATE_LAYOUT:
            _create_state(database)
        if layout < JOURNAL_LAYOUT:
            _run(database, JOURNAL)
        _run(database, LABELS)
        database.execute(f"PRAGMA user_version = {LAYOUT}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _create_state(database: sqlite3.Connection) -> None:
    sessions, removals = migration.counts(database)
    generation = secrets.randbits(62)
    _run(database, STATE + INDEXES)
    database.execute("INSERT INTO expiries SELECT deadline, rowid FROM sessions WHERE deadline IS NOT NULL")
    values = (generation, 0, removals, state_checksum(generation, 0, removals), sessions)
    database.execute("INSERT INTO state VALUES (1, ?, ?, ?, ?, ?, 0)", values)


def _run(database: sqlite3.Connection, script: str) -> None:
    """Each statement of a script, in the transaction under way: `executescript` would commit it first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            database.execute(statement)
            statement = ""
