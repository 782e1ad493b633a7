"""Measure what several workers cost: handing chunks over, and connections that move to the owner.

    python -m benchmarks.workers [--workers 1 2 4] [--rounds 5] [--seconds 2] [--out docs]

First, two workers in one process: processor time of a batch on both sides together, if this worker owns all
sessions, half of them, or none. Then real servers, 64 connections a worker, one observation a request, one
request in flight on each connection, every status checked. A connection of one session moves to its owner.
A connection that takes turns among eight sessions stays, and most of its requests are handed over.

Each figure is the least of all rounds: other work on the machine only adds to processor time. Requests a
second say little where workers and load generator share few cores, so they are not shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import selectors
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from app.config import Settings
from app.engine.engine import Engine
from app.jobs.jobs import AdvanceMany, Reply, SeparateReplies
from app.jobs.session_list import SessionList
from app.main import create_app
from app.workers.place import Place, owner_of
from benchmarks.dialects import HOST
from benchmarks.load import BadRun
from benchmarks.processes import cpu_seconds
from benchmarks.reference import write_artifact, write_seeded_weights
from benchmarks.servers import Running, known_servers, running
from models.arrays import Ints

BATCHES = (1, 4, 16, 64, 256)
REPETITIONS = 300
CONNECTIONS = 64  # a worker
SESSIONS = (1, 8)  # of a connection
BODY = b'{"observations":[[0.5]]}'
OK = b"HTTP/1.1 200"
READY_SECONDS = 120.0


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        batches = uvloop.run(_batches(folder, options.rounds))
        costs = _servers(weights, folder, options)
    page = "\n".join([*_batch_lines(batches), "", *_server_lines(costs, options)])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "workers.md").write_text(page + "\n")
    print(page)


# Two workers in one process.


async def _batches(folder: Path, rounds: int) -> dict[int, list[float]]:
    """By chunks of a batch, microseconds of it: all chunks local, half of them, none."""
    (folder / "sockets").mkdir()
    settings = Settings(workers=2, models=(folder / "artifact",), log_level="warning")
    apps = [create_app(settings, place=Place(i, 2, folder / "sockets")) for i in range(2)]
    async with AsyncExitStack() as running_apps:
        await asyncio.gather(
            *(running_apps.enter_async_context(app.router.lifespan_context(app)) for app in apps)
        )
        engine: Engine = apps[0].state.engine
        found: dict[int, list[float]] = {}
        for count in BATCHES:
            own, others = (_owned(worker, count) for worker in range(2))
            mixed = [name for pair in zip(own, others, strict=True) for name in pair][:count]
            found[count] = [await _batch_us(engine, names, rounds) for names in (own, mixed, others)]
        return found


def _owned(worker: int, count: int) -> list[str]:
    names = (f"session-{i}" for i in range(1_000_000))
    owned = (name for name in names if owner_of(name, 2) == worker)
    return [next(owned) for _ in range(count)]


async def _batch_us(engine: Engine, names: list[str], rounds: int) -> float:
    """Microseconds of processor time of a batch."""
    rows, lengths = np.ones((len(names), 1), np.float32), np.ones(len(names), np.int64)

    async def advance() -> None:
        answered = asyncio.get_running_loop().create_future()
        sessions = SessionList(names)  # as of requests that have just come in: nothing is known of it
        reply = _Count(len(names), answered)
        engine.submit(AdvanceMany(sessions, rows, lengths, reply=reply, requests=len(names)))
        await answered

    least = float("inf")
    for _ in range(rounds):
        await advance()
        before = time.process_time()
        for _ in range(REPETITIONS):
            await advance()
        least = min(least, (time.process_time() - before) / REPETITIONS)
    return 1e6 * least


class _Count(SeparateReplies):
    """Waits for the answers to all chunks, as those of separate connections."""

    def __init__(self, count: int, answered: asyncio.Future[None]) -> None:
        self._left = count
        self._answered = answered

    def __call__(self, outcome: Any) -> None:
        self._add(self._left, outcome)

    def subset_reply(self, indexes: Ints) -> Reply:
        return lambda outcome: self._add(len(indexes), outcome)

    def single_reply(self, i: int) -> Reply:  # noqa: ARG002
        return lambda outcome: self._add(1, outcome)

    def _add(self, count: int, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        self._left -= count
        if not self._left:
            self._answered.set_result(None)


def _batch_lines(found: dict[int, list[float]]) -> list[str]:
    lines = [
        "| chunks of a batch | all local, us | half handed over, us | all handed over, us "
        "| more per chunk, half handed over, us | more per chunk, all handed over, us |",
        "|---|---|---|---|---|---|",
    ]
    for count, (own, mixed, others) in found.items():
        more = (mixed - own) / count, (others - own) / count
        half = ("-", "-") if count == 1 else (f"{mixed:.0f}", f"{more[0]:.1f}")
        lines.append(f"| {count} | {own:.0f} | {half[0]} | {others:.0f} | {half[1]} | {more[1]:.1f} |")
    return lines


# Real servers.


def _servers(weights: Path, folder: Path, options: argparse.Namespace) -> dict[tuple[int, int], float]:
    """By sessions of a connection and number of workers, the least microseconds of a request."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    costs: dict[tuple[int, int], float] = {}
    with ExitStack() as stack:
        servers: dict[int, Running] = {}
        for workers in options.workers:
            command = (*ours.command, "--workers", str(workers))
            server = replace(ours, name=f"workers{workers}", command=command)
            servers[workers] = stack.enter_context(running(server, cores, weights, folder))
            _await_ready(servers[workers].port)
        for _ in range(options.rounds):
            for sessions in SESSIONS:
                for workers, started in servers.items():
                    cost = _request_us(started, workers * CONNECTIONS, sessions, options.seconds)
                    print(f"{sessions} sessions a connection, {workers} workers: {cost:.1f} us", flush=True)
                    key = sessions, workers
                    costs[key] = min(cost, costs.get(key, cost))
    return costs


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        connection = HTTPConnection(HOST, port)
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
        connection.close()
        if status == 200:
            return
        time.sleep(0.1)
    raise BadRun("the workers did not become ready")


def _request_us(started: Running, count: int, sessions: int, seconds: float) -> float:
    """Microseconds of the server's processor time for each request, once connections have moved."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for i in range(count):
            opened = stack.enter_context(socket.create_connection((HOST, started.port)))
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(opened, started.port, i, sessions)
            selector.register(opened, selectors.EVENT_READ, connection)
            connection.send()
        _answer_for(selector, seconds / 4)
        before = cpu_seconds(started.process.pid)
        answers = _answer_for(selector, seconds)
        return 1e6 * (cpu_seconds(started.process.pid) - before) / answers


def _answer_for(selector: selectors.BaseSelector, seconds: float) -> int:
    """Send the next request for each answer. Returns how many answers came.

    Raises
    ------
    BadRun : an answer was not a 200, or a connection was closed
    """
    until, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        for key, _ in selector.select(1.0):
            connection: _Connection = key.data
            if not connection.socket.recv(65_536).startswith(OK):
                raise BadRun("an answer was not a 200")
            connection.send()
            count += 1
    return count


class _Connection:
    """Sends to each of its sessions in turn."""

    def __init__(self, opened: socket.socket, port: int, number: int, sessions: int) -> None:
        self.socket = opened
        self._turn = 0
        head = b"POST /sessions/c%d-%d/observations HTTP/1.1\r\nHost: %b:%d\r\nContent-Length: %d\r\n\r\n%b"
        self._requests = [
            head % (number, session, HOST.encode(), port, len(BODY), BODY) for session in range(sessions)
        ]

    def send(self) -> None:
        """Send the next request."""
        self.socket.sendall(self._requests[self._turn % len(self._requests)])
        self._turn += 1


def _server_lines(costs: dict[tuple[int, int], float], options: argparse.Namespace) -> list[str]:
    lines = [
        f"{CONNECTIONS} connections a worker, the least of {options.rounds} rounds of {options.seconds:g} s:",
        "",
        "| sessions per connection | workers | server CPU us per request "
        "| so many requests/s on as many cores as workers | relative to one worker |",
        "|---|---|---|---|---|",
    ]
    for sessions, workers in sorted(costs):
        possible, single = (count * 1e6 / costs[sessions, count] for count in (workers, min(options.workers)))
        lines.append(
            f"| {sessions} | {workers} | {costs[sessions, workers]:.1f} | {possible:,.0f} "
            f"| {possible / single:.2f} |"
        )
    return lines


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure of a server")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for workers.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
