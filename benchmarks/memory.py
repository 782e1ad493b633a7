"""Measure a million resident sessions: memory, the rate of creation, and the effect on requests/s.

``python -m benchmarks.memory`` needs what `benchmarks.run` needs and 4 GB of memory. It takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.torch import load_file

from benchmarks.connection import Connection
from benchmarks.dialects import SessionInPath
from benchmarks.load import BadRun
from benchmarks.pipeline import send_all
from benchmarks.processes import machine_lines, resident_bytes
from benchmarks.reference import TOLERANCE, Reference, write_artifact, write_seeded_weights
from benchmarks.report import table
from benchmarks.run import PAGES
from benchmarks.servers import Running, known_servers, running
from benchmarks.streams import Stream
from benchmarks.wrk import run_wrk

CONNECTIONS = 64
DRIVEN = 20_000
"""Sessions that a measurement drives, drawn from all of them: enough that no cache holds their rows."""
JUDGED = 20
DIALECT = SessionInPath()


@dataclass(frozen=True)
class Crowd:
    """How many sessions there are, and how many of them may be resident."""

    sessions: int
    resident: int

    @property
    def title(self) -> str:
        """Return what people read."""
        evicted = "" if self.resident >= self.sessions else f", {self.resident:,} resident"
        return f"{self.sessions:,} sessions{evicted}"

    def settings(self) -> dict[str, str]:
        """Return the service's settings for this crowd, with room for the warm-up."""
        return {
            "CARRYOVER_MAX_SESSIONS": str(self.sessions + 1000),
            "CARRYOVER_RESIDENT_SESSIONS": str(max(self.resident, 1000) + 1100),
        }


@dataclass
class Finding:
    """What was measured of a crowd; rates a second."""

    bytes_each: float = 0.0
    first_tenth: float = 0.0
    last_tenth: float = 0.0
    rates: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    os.sched_setaffinity(0, {options.generator_core})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    few, many = options.few, options.many
    crowds = [Crowd(few, few), Crowd(many, many), Crowd(many, many // 10)]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        started = {crowd: stack.enter_context(_served(crowd, weights, options)) for crowd in crowds}
        findings = {crowd: _fill(crowd, server) for crowd, server in started.items()}
        judge = Reference(load_file(weights))
        for index in range(options.rounds):
            for crowd, server in started.items():
                findings[crowd].rates.append(_drive(crowd, server, options, folder, index))
        for crowd, server in started.items():
            _check_strangers(crowd, server, judge)
    page = _page(findings, options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory.md").write_text(page)
    print(page)


@contextmanager
def _served(crowd: Crowd, weights: Path, options: argparse.Namespace) -> Iterator[Running]:
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    configured = replace(ours, name=crowd.title, environment={**ours.environment, **crowd.settings()})
    with running(configured, options.server_core, weights, weights.parent) as server:
        yield server


def _fill(crowd: Crowd, server: Running) -> Finding:
    """Create all sessions by their first chunk, and note rates and memory."""
    send_all(server.port, (_request(f"warm-up-{number}", 0) for number in range(100)))
    empty = resident_bytes(server.process.pid)
    rates = []
    tenth = crowd.sessions // 10
    for part in range(10):
        start = time.perf_counter()
        send_all(
            server.port, (_request(f"s{number}", 0) for number in range(part * tenth, (part + 1) * tenth))
        )
        rates.append(tenth / (time.perf_counter() - start))
        print(f"{crowd.title}: {(part + 1) * tenth:,} created, {rates[-1]:,.0f}/s", flush=True)
    each = (resident_bytes(server.process.pid) - empty) / crowd.sessions
    return Finding(each, rates[0], rates[-1])


def _drive(crowd: Crowd, server: Running, options: argparse.Namespace, folder: Path, seed: int) -> float:
    """Return requests/s, 1 step each, over 64 connections that visit sessions drawn at random."""
    numbers = random.Random(seed).sample(range(JUDGED, crowd.sessions), min(DRIVEN, crowd.sessions - JUDGED))
    requests = {f"s{number}": [_request(f"s{number}", 1)] for number in numbers}
    core, seconds = options.generator_core, options.seconds
    load = run_wrk(server.port, requests, DIALECT.session_pattern, seconds, core, folder, CONNECTIONS)
    rate = load.requests / load.seconds
    print(f"{crowd.title}: {rate:,.0f} requests/s", flush=True)
    return rate


def _check_strangers(crowd: Crowd, server: Running, reference: Reference) -> None:
    """Check that sessions which nobody drove are where their first chunk left them."""
    with Connection(server.port) as connection:
        for number in range(JUDGED):
            stream = Stream(f"s{number}", 1)
            answer = DIALECT.answer(connection.send(_request(stream.session, 1)))
            error = np.abs(answer.predictions - reference.predictions(stream.consumed(2))[-1:]).max()
            if answer.position != 2 or not error <= TOLERANCE:
                raise BadRun(f"{crowd.title}: {stream.session} is at {answer.position}, off by {error:.2g}")


def _request(session: str, index: int) -> bytes:
    return DIALECT.request(session, Stream(session, 1).chunk(index), "middle")


def _page(findings: Mapping[Crowd, Finding], options: argparse.Namespace) -> str:
    base = median(next(iter(findings.values())).rates)
    rows = [
        (
            crowd.title.replace(" sessions", ""),
            f"{finding.bytes_each:,.0f}" if crowd.sessions == options.many else "",
            f"{finding.first_tenth:,.0f}",
            f"{finding.last_tenth:,.0f}",
            f"{median(finding.rates):,.0f}",
            f"{median(finding.rates) / base:.2f}",
        )
        for crowd, finding in findings.items()
    ]
    header = (
        "sessions",
        "bytes of RSS per session",
        "created/s, first tenth",
        "created/s, last tenth",
        "requests/s",
        "relative to the first row",
    )
    lines = [
        "# Memory: a million sessions",
        "This page shows the memory that a session needs, and how requests/s change with the number of "
        f"sessions. `python -m benchmarks.memory` wrote it on {datetime.now(UTC).strftime('%Y-%m-%d')}.",
        "\n".join(f"- {line}" for line in machine_lines()),
        "The model is an `LSTM(1, 64)`. First, one connection creates each session by its first chunk, "
        f"without waiting for the answers (pipelined). Then {CONNECTIONS} connections send chunks of 1 step "
        f"to {DRIVEN:,} sessions, drawn at random from all of them. The requests/s are medians of "
        f"{options.rounds} rounds of {options.seconds} s, interleaved.",
        table(header, rows),
    ]
    return "\n\n".join(lines) + "\n"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--out", type=Path, default=PAGES, help="folder for memory.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
