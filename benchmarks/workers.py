"""Measure `carryover serve --workers N`: processor time of a request, on connections of one or many sessions.

    python -m benchmarks.workers [--workers 1 2 4] [--rounds 3] [--seconds 3] [--out docs]

64 connections, one observation a request, one request in flight on each, every status checked; the rounds of
all servers are interleaved. A connection of one session moves to the worker that owns it. A connection that
takes turns among eight sessions stays, and the requests for sessions of other workers are handed over.

Requests a second say little where the workers and the load generator share few cores. The processor time of
a request does not depend on that: `N` cores serve at most `N` seconds of it in a second.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.dialects import HOST
from benchmarks.load import BadRun
from benchmarks.processes import cpu_seconds
from benchmarks.reference import write_artifact, write_seeded_weights
from benchmarks.servers import Running, known_servers, running

CONNECTIONS = 64
SESSIONS = (1, 8)  # of a connection
BODY = b'{"observations":[[0.5]]}'
OK = b"HTTP/1.1 200"


@dataclass(frozen=True)
class Row:
    """One run: requests a second, and microseconds of the server's processor time for each."""

    rate: float
    cpu_us: float


def main() -> None:
    options = _options()
    everything = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        (ours,) = (server for server in known_servers() if server.name == "carryover")
        servers = {
            workers: stack.enter_context(
                running(
                    replace(
                        ours, name=f"workers{workers}", command=(*ours.command, "--workers", str(workers))
                    ),
                    everything,
                    weights,
                    folder,
                )
            )
            for workers in options.workers
        }
        rows: dict[tuple[int, int], list[Row]] = {}
        for _ in range(options.rounds):
            for sessions in SESSIONS:
                for workers, started in servers.items():
                    row = _run(started, sessions, options.seconds)
                    rows.setdefault((sessions, workers), []).append(row)
                    print(sessions, workers, f"{row.rate:,.0f}/s {row.cpu_us:.1f} us", flush=True)
    page = "\n".join(_page(rows, options))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "workers.md").write_text(page + "\n")
    print(page)


def _run(started: Running, sessions: int, seconds: float) -> Row:
    """Send for a while; the first tenth is not counted, in which connections are moved."""
    with ExitStack() as stack:
        connections = [
            _Connection(
                stack.enter_context(socket.create_connection((HOST, started.port))), started.port, i, sessions
            )
            for i in range(CONNECTIONS)
        ]
        selector = stack.enter_context(selectors.DefaultSelector())
        for connection in connections:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        _answer_for(selector, seconds / 10)
        before, began = cpu_seconds(started.process.pid), time.perf_counter()
        count = _answer_for(selector, seconds)
        took = time.perf_counter() - began
        return Row(count / took, 1e6 * (cpu_seconds(started.process.pid) - before) / count)


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


def _page(rows: dict[tuple[int, int], list[Row]], options: argparse.Namespace) -> list[str]:
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{CONNECTIONS} connections, 1 observation per request, medians of {options.rounds} rounds of "
        f"{options.seconds:g} s. The workers and the load generator share {cores} cores.",
        "",
        "| sessions per connection | workers | requests/s here | server CPU us per request | "
        "by CPU time: requests/s on as many cores as workers | relative to one worker |",
        "|---|---|---|---|---|---|",
    ]
    single: dict[int, float] = {}
    for (sessions, workers), found in sorted(rows.items()):
        rate, cpu_us = median(row.rate for row in found), median(row.cpu_us for row in found)
        possible = workers * 1e6 / cpu_us
        relative = possible / single.setdefault(sessions, possible)
        lines.append(
            f"| {sessions} | {workers} | {rate:,.0f} | {cpu_us:.1f} | {possible:,.0f} | {relative:.2f} |"
        )
    return lines


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for workers.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
