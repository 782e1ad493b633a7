"""A file of the last chunk of every session, for brokers that keep nothing but messages.

It is written before a chunk is sent. After a crash of the bridge it says which of the messages that come
again were in that chunk, and at which position it began.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.connectors.source import Place


@dataclass(frozen=True, slots=True)
class Intent:
    """A chunk that may have been applied: where it began, and the marks of its messages."""

    place: Place
    marks: tuple[str, ...]


class Journal:
    """The file; SQLite makes a write whole, and waits for the disk.

    Raises
    ------
    OSError : the file cannot be opened
    """

    def __init__(self, path: Path) -> None:
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # one bridge a file
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS chunks "
                "(session TEXT PRIMARY KEY, position INTEGER, epoch TEXT, marks TEXT)"
            )
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}") from None

    def load(self) -> dict[str, Intent]:
        """Every session's last chunk."""
        rows = self._database.execute("SELECT session, position, epoch, marks FROM chunks")
        return {
            session: Intent(Place(position, epoch), tuple(json.loads(marks)))
            for session, position, epoch, marks in rows
        }

    def write(self, intents: Mapping[str, Intent]) -> None:
        """Replace the chunks of these sessions; they are on the disk when this returns."""
        rows = [
            (session, intent.place.position, intent.place.epoch, json.dumps(intent.marks))
            for session, intent in intents.items()
        ]
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)", rows)
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()
