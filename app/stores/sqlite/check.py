"""Whether a file holds all that was committed to it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.errors import ConfigError
from app.stores.sqlite.commit_mark import LastCommit, mark_path, read_mark
from app.stores.sqlite.journal import DamagedJournal, read_journal
from app.stores.sqlite.pending import PendingChanges
from app.stores.sqlite.schema import LAYOUT, STATE_LAYOUT, errors_as_config_error, inspect_file, reading
from app.stores.sqlite.tables import UNREADABLE, Tables, name_sum

log = logging.getLogger("carryover.store")

ADVICE = "restore a copy, or start once with --accept-loss to go on without"
CHECKED = 500  # records that are read at a time


@dataclass(frozen=True, slots=True)
class FileReport:
    """What `check_file` has found.

    sessions : as the file counts them
    readable : with a checksum that matches
    damaged : found, and not readable; the first few of them by name in `examples`
    missing : counted, and not found by a look-up or not listed
    loss : what is known of commits that are missing, or an empty text
    """

    sessions: int
    readable: int
    damaged: int
    missing: int
    loss: str
    examples: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        return not (self.damaged or self.missing or self.loss)


def check_last_commit(path: Path, *, accept_loss: bool) -> None:
    """Refuse a file that lacks batches which were committed to it.

    Raises
    ------
    ConfigError : with the file's name and what was lost; with `accept_loss` that is logged instead
    """
    loss = find_loss(path, accept_loss=accept_loss)
    if loss and not accept_loss:
        raise ConfigError(f"store {path} has lost commits: {loss}; {ADVICE}")
    if loss:
        log.error("store %s has lost commits, and that was accepted: %s", path, loss)


def find_loss(path: Path, *, accept_loss: bool = False) -> str:
    """What is known to be missing from the file, or an empty text. Changes nothing.

    Raises
    ------
    ConfigError : the file cannot be read, or is not a store; with `accept_loss` a damaged mark is no reason
    """
    state = inspect_file(path)
    try:
        mark = read_mark(path)
    except ConfigError:
        if not accept_loss:
            raise
        return "its mark is damaged"
    if state.layout < STATE_LAYOUT:
        # An older version wrote it, or a new file takes the place of one that had a mark.
        return "" if mark is None or state.layout else f"the file is empty, and {_described(mark)}"
    if mark is None:
        name = mark_path(path).name
        return f"{name} is missing, and the server was not stopped in order" if state.is_open else ""
    if mark.generation != state.generation:
        return f"{mark_path(path).name} belongs to another file"
    if mark.sequence > state.sequence:
        missing = mark.sequence - state.sequence
        return (
            f"it ends with batch {state.sequence}, and {_described(mark)}: {missing} are missing; its "
            f"write-ahead log {path.name}-wal is damaged or missing"
        )
    return ""


def check_names(path: Path, tables: Tables, *, accept_loss: bool) -> None:
    """Refuse a file some of whose sessions a look-up would not find: they would silently begin anew.

    Raises
    ------
    ConfigError : with `accept_loss` it is logged instead
    sqlite3.Error, ValueError : an index cannot be read
    """
    found, listed = name_sum(tables.ids()), name_sum(tables.listed_ids())
    if found == listed and found[0] == tables.sessions:
        return
    count = max(abs(tables.sessions - found[0]), abs(tables.sessions - listed[0]), 1)
    problem = f"of its {tables.sessions} sessions at least {count} cannot be found: an index is damaged"
    if not accept_loss:
        raise ConfigError(f"store {path} is damaged: {problem}; {ADVICE}")
    log.error("store %s is damaged, and that was accepted: %s", path, problem)


def check_file(path: Path) -> FileReport:
    """Read every session of a file that no server has open. Changes nothing.

    Raises
    ------
    ConfigError : it cannot be read at all, or is not a store of this version
    """
    loss = find_loss(path, accept_loss=True)
    state = inspect_file(path)
    if state.layout != LAYOUT:
        raise ConfigError(f"store {path} was written by an older version: a start of the server upgrades it")
    with errors_as_config_error(path), reading(path) as database:
        database.execute("PRAGMA temp_store = MEMORY")
        tables = Tables(database)
        journal = PendingChanges(tables.count_present)
        for sequence, changes in read_journal(database, tables.sequence):
            if isinstance(changes, DamagedJournal):
                loss = loss or str(changes)
            else:
                journal.add(sequence, changes.blocks, changes.removals)
        return _report(tables, journal, loss)


def _report(tables: Tables, journal: PendingChanges, loss: str) -> FileReport:
    found, listed = _names_read(tables.ids), _names_read(tables.listed_ids)
    in_tables, changed = found | listed, journal.sessions()
    removed = {removal.tombstone.session for removal in journal.removals()}
    known = sorted(in_tables - changed - removed)  # the journal has newer records of the others
    sessions = tables.sessions - len(in_tables & removed) + len(changed - in_tables)
    readable, damaged = len(changed), []
    for start in range(0, len(known), CHECKED):
        part = known[start : start + CHECKED]
        try:
            records, bad = tables.records(part)
        except sqlite3.Error:
            damaged += part
            continue
        readable += len(records)
        damaged += bad
    missing = max(sessions - readable - len(damaged), len(found - listed), len(listed - found), 0)
    return FileReport(sessions, readable, len(damaged), missing, loss, tuple(damaged[:5]))


def _names_read(walk: Callable[[], Iterator[str]]) -> set[str]:
    """The names of a walk, as far as the index can be read."""
    names: set[str] = set()
    with suppress(*UNREADABLE):
        for name in walk():
            names.add(name)
    return names


def _described(mark: LastCommit) -> str:
    time = datetime.fromtimestamp(mark.committed, UTC).isoformat(timespec="seconds")
    return f"batch {mark.sequence} was committed at {time}"
