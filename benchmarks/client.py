"""Measure the cost of the Python client: its calls beside bare httpx, its streams beside a bare socket.

    python -m benchmarks.client [--rounds 15] [--calls 300] [--chunks 3000] [--steps 1]

Bare httpx posts the same chunk and decodes its answer. The bare socket is the benchmarks' own load generator,
whose messages are made before the clock starts. All alternate in one process against one server; the figures
are medians of the rounds. The exit status is 1 if a call costs over 60 us more CPU time than bare httpx, or
if a stream sends less than 0.8 of the socket's chunks a second.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
from carryover import Carryover
from carryover.frames import message

from app.config import SHIPPED_MODELS
from benchmarks.dialects import HOST
from benchmarks.servers import known_servers, running
from benchmarks.socket_load import Caller, Conversation, Plan
from models.arrays import Doubles

MOST_ADDED_US, LEAST_SHARE, WINDOW = 60.0, 0.8, 8


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(SHIPPED_MODELS / "sine", folder / "artifact")
        with running(ours, 0, folder / "weights", folder) as started:
            url = f"http://{HOST}:{started.port}"
            added, bare = _calls(url, options)
            share, rate = _streams(url, started.port, options)
    print(f"call: {added:+.0f} us of CPU time beside bare httpx's {bare:.0f} (at most {MOST_ADDED_US:+.0f})")
    print(f"stream: {share:.2f} of the bare socket's {rate:,.0f} chunks/s (at least {LEAST_SHARE})")
    return int(added > MOST_ADDED_US or share < LEAST_SHARE)


def _calls(url: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the CPU microseconds that the client adds to a call of bare httpx, and those of bare httpx."""
    rows = np.sin(np.arange(options.steps) / 10)
    with httpx.Client(base_url=url) as http, Carryover(url) as service:
        session, numbers = service.session("client"), rows.tolist()

        def bare() -> None:
            response = http.post("/sessions/bare/observations", json={"observations": numbers})
            response.raise_for_status().json()

        rounds = [
            (_cpu(bare, options.calls), _cpu(lambda: session.advance(rows), options.calls))
            for _ in range(options.rounds)
        ]
    return statistics.median(ours - theirs for theirs, ours in rounds), statistics.median(
        r[0] for r in rounds
    )


def _cpu(call: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls * 1e6


def _streams(url: str, port: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return the client's share of the bare socket's rate, and that rate."""
    rows = np.sin(np.arange(options.chunks * options.steps) / 10)
    rounds = [
        (_bare_rate(port, rows, options), _stream_rate(url, rows, options)) for _ in range(options.rounds)
    ]
    return statistics.median(ours / bare for bare, ours in rounds), statistics.median(r[0] for r in rounds)


def _bare_rate(port: int, rows: Doubles, options: argparse.Namespace) -> float:
    chunks = rows.astype(np.float32).reshape(-1, options.steps, 1)
    messages = [message(chunk, -1, None, 0) for chunk in chunks]
    talk = Conversation("/sessions/bare-socket/stream", messages)
    caller = Caller(Plan(HOST, port, "binary", [talk], 0.0, WINDOW), talk)
    latencies: list[float] = []
    start = time.perf_counter()
    caller.send(WINDOW, start)
    sent = WINDOW
    while len(latencies) < len(messages):
        answers = caller.receive(latencies)
        caller.judge(answers)
        more = min(len(answers), len(messages) - sent)
        if more:
            caller.send(more, time.perf_counter())
        sent += more
    rate: float = len(messages) / (time.perf_counter() - start)
    caller.socket.close()
    return rate


def _stream_rate(url: str, rows: Doubles, options: argparse.Namespace) -> float:
    with Carryover(url) as service:
        start = time.perf_counter()
        stream = service.session("stream").stream(rows, options.steps, max_in_flight=WINDOW, socket=True)
        predictions = sum(1 for _ in stream)
        rate: float = options.chunks / (time.perf_counter() - start)
    if predictions != len(rows):
        raise RuntimeError(f"{predictions} predictions for {len(rows)} observations")
    return rate


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.client", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=300, help="a round")
    parser.add_argument("--chunks", type=int, default=3000, help="a round")
    parser.add_argument("--steps", type=int, default=1, help="observations to a chunk")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
