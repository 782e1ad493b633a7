"""What a commit of the SQLite store takes: batches of 1, 64 and 256 sessions drawn at random.

    python -m benchmarks.stores [--folder /var/tmp] [--bytes 720] [--seconds 3] [--sessions 20000]

Each is measured alone and beside a thread that keeps the interpreter busy, as an event loop under load does.
The time of the machine's own fsync comes first. The folder must be on the disk to measure.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.stores import Block
from app.stores.sqlite.store import SqliteStore

SIZES = (1, 64, 256)
CREATED_TOGETHER = 1000
NEVER = float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--bytes", type=int, default=720, help="of a session's record")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--sessions", type=int, default=20_000)
    options = parser.parse_args()
    p50, p99 = fsync_seconds(options.folder)
    print(f"fsync of 4 KiB appended: p50 {1e3 * p50:.2f} ms, p99 {1e3 * p99:.2f} ms")
    print(f"{'batch':>6}{'beside':>10}{'sessions/s':>12}{'CPU us':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for size in SIZES:
        for beside in ("nothing", "a loop"):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                figures = measure(Path(folder), size, options, is_busy=beside == "a loop")
            print(f"{size:>6}{beside:>10}{figures}", flush=True)


def measure(folder: Path, size: int, options: argparse.Namespace, *, is_busy: bool) -> str:
    """Commit batches for a while. The upkeep that is due counts, too, except in the latencies."""
    store = SqliteStore(folder / "store.sqlite", 1000, NEVER)
    names = [f"session-{i:07}" for i in range(options.sessions)]
    for start in range(0, len(names), CREATED_TOGETHER):
        commit(store, names[start : start + CREATED_TOGETHER], options.bytes, 0)
    draw = random.Random(1)
    taken: list[float] = []
    with busy(is_busy):
        began, cpu = time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < options.seconds:
            start_time = time.perf_counter()
            commit(store, draw.sample(names, size), options.bytes, len(taken) + 1)
            taken.append(time.perf_counter() - start_time)
            if store.upkeep_due:
                store.tend()
        seconds, cpu = time.perf_counter() - began, time.thread_time() - cpu
    store.close()
    count = size * len(taken)
    taken.sort()
    p50, p99, longest = (1e3 * taken[int(part * (len(taken) - 1))] for part in (0.5, 0.99, 1.0))
    return f"{count / seconds:>12,.0f}{1e6 * cpu / count:>8.1f}{p50:>9.2f}{p99:>9.2f}{longest:>9.1f}"


def commit(store: SqliteStore, names: list[str], size: int, position: int) -> None:
    """Commit a record of this many bytes for each session, with a deadline that moves as a chunk moves it."""
    count = len(names)
    store.commit(
        [Block("f" * 64, names, [position] * count, [2e9 + position] * count, [bytes(size)] * count)], []
    )


@contextmanager
def busy(is_busy: bool) -> Iterator[None]:
    """Keep the interpreter busy in another thread, with the switch interval that the server sets."""
    before, stop = sys.getswitchinterval(), threading.Event()
    thread = threading.Thread(target=_spin, args=(stop,))
    if is_busy:
        sys.setswitchinterval(0.0005)
        thread.start()
    try:
        yield
    finally:
        stop.set()
        sys.setswitchinterval(before)
        if is_busy:
            thread.join()


def _spin(stop: threading.Event) -> None:
    while not stop.is_set():
        pass


def fsync_seconds(folder: Path, count: int = 500) -> tuple[float, float]:
    """Median and 99th percentile of an fsync after 4 KiB were appended to a file in this folder."""
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
