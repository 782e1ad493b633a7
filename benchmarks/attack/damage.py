"""Stores that lost acknowledged chunks behind the server's back: a server must not start with them silently.

Three damages of SQLite's write-ahead log after `kill -9`, and a Redis that may evict sessions.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from benchmarks.attack.http import connect, observations, parse
from benchmarks.attack.result import Checks, Result, Run, unobserved
from benchmarks.attack.server import NotStarted, serving

CHUNKS, STORE = 200, "store.sqlite"


def _remove(wal: Path) -> None:
    wal.unlink()


def _halve(wal: Path) -> None:
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])


def _flip_bit(wal: Path) -> None:
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 1
    wal.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": _remove,
    "cut in half": _halve,
    "with one bit flipped": _flip_bit,
}


async def damage(run: Run) -> AsyncIterator[Result]:
    """The write-ahead log as it was left, then damaged; with `--redis` a Redis that evicts."""
    killed = run.new_folder()
    count = run.scaled(CHUNKS)
    async with serving(run.target, killed, store=f"sqlite:{killed / STORE}") as server:
        async with connect(server.port) as connection:
            for _ in range(count):
                await connection.send(observations("kept", 0.5))
                await connection.answer()
        server.process.kill()
        await server.process.wait()
    yield _file_modes(killed)
    yield await _start(run, killed, count, "as it was left", None)
    for name, apply in DAMAGES.items():
        yield await _start(run, killed, count, name, apply)
    if run.redis:
        yield await _evicting_redis(run)


def _file_modes(folder: Path) -> Result:
    checks = Checks()
    for file in sorted(folder.glob(f"{STORE}*")):
        mode = file.stat().st_mode & 0o777
        checks.expect(mode & 0o077 == 0, f"{file.name} has mode {mode:o}")
    return unobserved("files of the store", "another user reads them", str(checks), worked=checks.worked)


async def _start(
    run: Run, killed: Path, count: int, name: str, apply: Callable[[Path], None] | None
) -> Result:
    """Start on a copy of a killed server's files; it is to be refused, or to have every chunk."""
    folder = run.new_folder()
    shutil.copytree(killed, folder, dirs_exist_ok=True)
    (folder / "server.log").unlink()
    if apply is not None:
        apply(folder / f"{STORE}-wal")
    try:
        async with (
            serving(run.target, folder, store=f"sqlite:{folder / STORE}") as server,
            connect(server.port) as connection,
        ):
            _, body = await connection.request("GET", "/sessions/kept")
        position = (parse(body) or {}).get("position", 0)
        outcome, worked = f"starts with {position} of {count} acknowledged chunks", position != count
    except NotStarted as error:
        outcome, worked = f"refused: {_reason(error, folder)}", apply is None
    sent = f"kill -9 after {count} acknowledged chunks, then a start"
    return unobserved(f"write-ahead log {name}", sent, outcome, worked=worked)


async def _evicting_redis(run: Run) -> Result:
    from benchmarks.failover.processes import RedisServer

    folder = run.new_folder()
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(folder / "redis", *options) as redis:
        try:
            async with serving(run.target, folder, store=redis.url):
                outcome, worked = "the server starts: Redis may evict its sessions", True
        except NotStarted as error:
            outcome, worked = f"refused: {_reason(error, folder)}", False
    sent = "a start with maxmemory-policy allkeys-lru"
    return unobserved("Redis that evicts", sent, outcome, worked=worked)


def _reason(error: NotStarted, folder: Path) -> str:
    """The beginning of the last line of the log, without the folder of the store."""
    line = str(error).strip().splitlines()[-1]
    return line.removeprefix("carryover: ").replace(f"{folder}/", "").partition("; ")[0]
