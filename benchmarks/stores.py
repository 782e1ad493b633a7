"""How to keep a wave in SQLite: a row for each session, or one journal row a wave, folded in behind.

    python -m benchmarks.stores [--folder /tmp] [--bytes 720] [--seconds 3]

Both ways commit with WAL and `synchronous=FULL`, sessions drawn at random, alone and beside a thread that
keeps the interpreter busy as an event loop under load does. The machine's own fsync comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Wave = list[tuple[str, bytes]]
Commit = Callable[[Wave], None]

UPSERT = "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
FOLD_BYTES = 16 * 2**20
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--bytes", type=int, default=720, help="of one session's record")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--sessions", type=int, default=20_000)
    told = parser.parse_args()
    p50, p99 = fsync_seconds(told.folder)
    print(f"fsync of 4 KiB appended: p50 {1e3 * p50:.2f} ms, p99 {1e3 * p99:.2f} ms")
    print(f"{'way':<10}{'wave':>6}{'beside':>12}{'records/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for wave in (64, 256):
        for beside in ("alone", "busy 5 ms", "busy 0.5 ms"):
            for name, opened in (("upsert", upserts), ("journal", journal)):
                with tempfile.TemporaryDirectory(dir=told.folder) as folder, busy(beside):
                    waves = drawn(told.sessions, wave, told.bytes)
                    print(
                        f"{name:<10}{wave:>6}{beside:>12}" + timed(opened, Path(folder), waves, told.seconds)
                    )


def drawn(sessions: int, size: int, body_bytes: int) -> Iterator[Wave]:
    """Waves of sessions drawn at random, without end."""
    draw = random.Random(1)
    names = [f"session-{i}" for i in range(sessions)]
    while True:
        yield [(name, draw.randbytes(body_bytes)) for name in draw.sample(names, size)]


def timed(opened: Callable[[Path], Commit], folder: Path, waves: Iterator[Wave], seconds: float) -> str:
    commit = opened(folder / "store.sqlite")
    taken: list[float] = []
    records = 0
    while sum(taken) < seconds:
        wave = next(waves)
        began = time.perf_counter()
        commit(wave)
        taken.append(time.perf_counter() - began)
        records += len(wave)
    rate = records / sum(taken)
    taken.sort()
    p50, p99, most = (1e3 * taken[int(part * (len(taken) - 1))] for part in (0.5, 0.99, 1.0))
    return f"{rate:>12,.0f}{p50:>9.2f}{p99:>9.2f}{most:>9.1f}"


def upserts(path: Path) -> Commit:
    """A row for each session, SQLite's own checkpoints."""
    database = connected(path)

    def commit(wave: Wave) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(UPSERT, wave)
        database.execute("COMMIT")

    return commit


def journal(path: Path) -> Commit:
    """One row a wave; every `FOLD_BYTES` what is newest goes to the table, and a checkpoint follows."""
    database = connected(path)
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("CREATE TABLE journal (sequence INTEGER PRIMARY KEY, heads BLOB, bodies BLOB)")
    newest: dict[str, bytes] = {}
    written = 0

    def commit(wave: Wave) -> None:
        nonlocal written
        heads = json.dumps([(name, len(body)) for name, body in wave])
        bodies = b"".join([body for _, body in wave])
        database.execute("INSERT INTO journal (heads, bodies) VALUES (?, ?)", (heads, bodies))
        newest.update(wave)
        written += len(bodies)
        if written > FOLD_BYTES:
            fold(database, newest)
            newest.clear()
            written = 0

    return commit


def fold(database: sqlite3.Connection, newest: dict[str, bytes]) -> None:
    """Many rows in one statement: `executemany` takes the interpreter's lock again for each."""
    rows = list(newest.items())
    database.execute("BEGIN IMMEDIATE")
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        values = UPSERT.replace("(?, ?)", ", ".join(["(?, ?)"] * len(part)))
        database.execute(values, [value for row in part for value in row])
    database.execute("DELETE FROM journal")
    database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(PASSIVE)")


def connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA secure_delete = OFF")
    database.execute("CREATE TABLE sessions (id TEXT UNIQUE NOT NULL, body BLOB NOT NULL)")
    return database


@contextmanager
def busy(beside: str) -> Iterator[None]:
    """Keep the interpreter busy in another thread, under this switch interval."""
    before, stop = sys.getswitchinterval(), threading.Event()
    thread = threading.Thread(target=_spin, args=(stop,))
    if beside != "alone":
        sys.setswitchinterval(float(beside.split()[1]) / 1e3)
        thread.start()
    try:
        yield
    finally:
        stop.set()
        sys.setswitchinterval(before)
        if thread.is_alive():
            thread.join()


def _spin(stop: threading.Event) -> None:
    while not stop.is_set():
        pass


def fsync_seconds(folder: Path, count: int = 500) -> tuple[float, float]:
    """Median and 99th percentile of an fsync behind 4 KiB appended to a file in this folder."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(count):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    taken.sort()
    return taken[count // 2], taken[int(count * 0.99)]


if __name__ == "__main__":
    main()
