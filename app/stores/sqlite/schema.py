"""The SQLite file: its tables, how it is opened, and every reason not to.

Opened with an exclusive lock that the operating system drops when the process dies: one writer, one
connection. `secure_delete`, which some builds turn on, would write every folded wave once more.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from app.errors import ConfigError

APPLICATION = 0x43727279  # "Crry", in the header of the file
LAYOUT = 1  # raised when a table changes
PAGE_BYTES = 8192  # a wave of 64 costs two thirds of the processor time that it does with 4096
LOCK_SECONDS = 2.0  # that a process which is just ending is waited for

TABLES = """
CREATE TABLE carryover (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    folded INTEGER NOT NULL,    -- sequence of the last wave that was folded into the tables
    sessions INTEGER NOT NULL,  -- rows of that table
    buried INTEGER NOT NULL,    -- number of the last tombstone up to there
    crc INTEGER NOT NULL        -- CRC-32 of "folded sessions buried"
);
INSERT INTO carryover VALUES (1, 0, 0, 0, 1342640443);
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY,
    heads BLOB NOT NULL,        -- JSON: whose records these are
    crc INTEGER NOT NULL,       -- CRC-32 of sequence and heads
    bodies BLOB NOT NULL        -- the records one after the other
);
CREATE TABLE sessions (
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    position INTEGER NOT NULL,
    deadline INTEGER,           -- microseconds since 1970; NULL: never
    crc INTEGER NOT NULL,       -- CRC-32 of all the others
    body BLOB NOT NULL
);
CREATE INDEX sessions_deadline ON sessions (deadline) WHERE deadline IS NOT NULL;
CREATE TABLE tombstones (
    number INTEGER PRIMARY KEY, -- in the order of burials
    id TEXT NOT NULL UNIQUE,
    position INTEGER NOT NULL,
    why TEXT NOT NULL,
    buried INTEGER NOT NULL,    -- microseconds since 1970
    crc INTEGER NOT NULL
);
CREATE TABLE probe (bytes BLOB NOT NULL);
"""


def opened(path: Path) -> sqlite3.Connection:
    """The database at `path`, locked; made when there is none.

    Raises
    ------
    ConfigError : naming the file and what is wrong with it
    """
    if not path.parent.is_dir():
        raise ConfigError(f"store {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"store {path} is a folder; it must name a file")
    try:
        # Calls come one at a time, though from whichever thread the engine has.
        database = sqlite3.connect(path, LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigError(f"store {path} cannot be opened: {error}") from error
    try:
        _lock(database)
        _recognise(database, path)
        _prepare(database, path)
    except sqlite3.Error as error:
        database.close()
        raise ConfigError(f"store {path} cannot be used: {reason(error)}") from error
    except ConfigError:
        database.close()
        raise
    return database


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


def _lock(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    database.execute("COMMIT")


def _recognise(database: sqlite3.Connection, path: Path) -> None:
    """Refuse whatever is not ours before a byte of it is changed."""
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


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigError(f"store {path}: its file system cannot keep a write-ahead log")
    for told in (
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        "secure_delete = OFF",
        "temp_store = MEMORY",
        "cache_size = -32768",
        "cell_size_check = ON",
        "trusted_schema = OFF",
    ):
        database.execute(f"PRAGMA {told}").fetchall()
    if not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        database.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {LAYOUT}; {TABLES} COMMIT;"
        )
