"""The files of a store on disk that several workers share out among them.

A server with one worker has the file that the settings name. A server with N workers has N files beside it,
`NAME.0-of-N` and so on, and `NAME-workers`, which says what N is. A start with another number would look for
the sessions in the wrong files. So it is refused, and `divide` moves the sessions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from app.errors import ConfigError
from app.stores import NamesQuery, Record
from app.stores.sqlite.commit_mark import mark_path
from app.stores.sqlite.store import SqliteStore
from app.workers.place import owner_of
from models.wording import counted

SESSIONS_PER_COMMIT = 1000
ALL_TOMBSTONES = 2**62


def worker_path(path: Path, index: int, count: int) -> Path:
    """The file of a worker.

    Parameters
    ----------
    path : of the store in the settings
    index, count : of the worker, and of all workers
    """
    return path if count == 1 else path.with_name(f"{path.name}.{index}-of-{count}")


def worker_paths(path: Path, count: int) -> list[Path]:
    """The files of all workers."""
    return [worker_path(path, index, count) for index in range(count)]


def stored_workers(path: Path) -> int | None:
    """How many workers share out the sessions of a store; None if there is no store yet.

    Raises
    ------
    ConfigError : the file that says it cannot be read
    """
    try:
        count = int(_count_path(path).read_text())
    except FileNotFoundError:
        return 1 if path.exists() else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_count_path(path)} cannot be read: {error}") from error
    return count


def claim(path: Path, count: int) -> None:
    """Check that a store is divided among as many workers as this, or is new; then it is from now on.

    Raises
    ------
    ConfigError : it is divided among another number
    """
    stored = stored_workers(path)
    if stored is None and count > 1:
        _write_count(path, count)
    elif stored not in (None, count):
        raise ConfigError(
            f"the sessions of store {path} belong to {counted(stored, 'worker')}: start with "
            f"--workers {stored}, or divide them anew with: carryover sessions divide {path} {count}"
        )


def divide(path: Path, count: int) -> Iterator[int]:
    """Divide the sessions of a store that no server has open among another number of workers.

    The old files are removed only after the new ones are complete and on disk. If it is interrupted before
    that, nothing has changed.

    Yields
    ------
    How many sessions were moved, of each commit.

    Raises
    ------
    ConfigError : there is no such store, it is in use or damaged
    """
    stored = stored_workers(path)
    if stored is None:
        raise ConfigError(f"there is no store {path}")
    if stored == count:
        return
    new_paths = worker_paths(path, count)
    for new in new_paths:
        _remove(new)  # of an earlier call that was interrupted
    with ExitStack() as opened:
        old = [opened.enter_context(closing(_open(old))) for old in worker_paths(path, stored)]
        # The new files, too, say when the server last ran: a start keeps the sessions that idled since.
        runs = [store.last_saved for store in old if store.last_saved is not None]
        clock = partial(max, runs) if runs else time.time
        new_stores = [opened.enter_context(closing(_open(new, clock))) for new in new_paths]
        for store in old:
            yield from _move_sessions(store, new_stores)
            _move_tombstones(store, new_stores)
        holds = [store.no_expiry_before for store in old if store.no_expiry_before is not None]
        for store in new_stores if holds else ():
            store.save_no_expiry_before(max(holds))
    _write_count(path, count)
    for done in worker_paths(path, stored):
        _remove(done)


def _move_sessions(old: SqliteStore, new: list[SqliteStore]) -> Iterator[int]:
    after = ""
    while found := old.names(NamesQuery(after, SESSIONS_PER_COMMIT)).found:
        names = [name for name, _ in found]
        records, others = old.load(names)
        if len(records) < len(names):
            damaged = next(iter(others), "")
            raise ConfigError(f"store {old.path} is damaged: session {damaged!r} cannot be read")
        for owner, own in _by_owner(records, len(new)).items():
            new[owner].commit([record.block() for record in own], [])
        after = names[-1]
        yield len(names)


def _by_owner(records: list[Record], count: int) -> dict[int, list[Record]]:
    owners: dict[int, list[Record]] = {}
    for record in records:
        owners.setdefault(owner_of(record.session, count), []).append(record)
    return owners


def _move_tombstones(old: SqliteStore, new: list[SqliteStore]) -> None:
    for tombstones in old.all_tombstones(SESSIONS_PER_COMMIT):
        for owner, store in enumerate(new):
            own = [tombstone for tombstone in tombstones if owner_of(tombstone.session, len(new)) == owner]
            if own:
                store.commit([], own)


def _open(path: Path, clock: Callable[[], float] = time.time) -> SqliteStore:
    return SqliteStore(path, ALL_TOMBSTONES, float("inf"), clock=clock)


def _remove(path: Path) -> None:
    """Remove a file of a store and what belongs to it; the file itself last."""
    names = (f"{path.name}-held", mark_path(path).name, f"{path.name}-wal", f"{path.name}-shm", path.name)
    for name in names:
        path.with_name(name).unlink(missing_ok=True)


def _count_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-workers")


def _write_count(path: Path, count: int) -> None:
    """Say how many workers there are, atomically and durably."""
    target = _count_path(path)
    try:
        if count == 1:
            target.unlink(missing_ok=True)
        else:
            beside = target.with_name(f".{target.name}")
            with beside.open("w") as file:
                file.write(f"{count}\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
