"""What a tenant that floods does to another's p99, and what keys and metrics cost: side by side, in one run.

    python -m benchmarks.fairness --rounds 5

A quiet tenant sends a chunk of one observation over each of 8 connections every 20 ms. A second one floods
from 64 connections as fast as it is answered, each with 4 chunks in flight, not heeding `Retry-After`. The
flood's key allows 1,000 observations a second; then, for comparison, anything. In between the quiet tenant is
measured alone.

Then 64 connections stream one observation a chunk against a server with keys and metrics, and against one
with neither, by turns. What is compared is the server's own CPU time a chunk: shared cores make a rate noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.keys import made, write
from app.quotas import Quota
from benchmarks.dialects import HOST
from benchmarks.reference import write_artifact, write_seeded_weights
from benchmarks.servers import free_port

SERVE = "from app.cli import main; main()"
BARE = """
from app import metrics
from app.engine import Engine
nothing = lambda *_: None
metrics.Metrics.answered = metrics.Histogram.add = metrics.Stages.begin = metrics.Stages.ended = nothing
Engine._count = nothing
"""
QUIET_CONNECTIONS, QUIET_SECONDS_BETWEEN = 8, 0.02
FLOOD_CONNECTIONS, FLOOD_IN_FLIGHT, FLOOD_RATE = 64, 4, 1000.0
BODY = b'{"observations":[[0.5]]}'
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(folder: Path, keys: Path | None, program: str = SERVE) -> Iterator[tuple[int, int]]:
    """A server on a port of its own: its port and its process."""
    port = free_port()
    settings = {"PORT": port, "HOST": HOST, "MODELS": folder / "models", "LOG_LEVEL": "error"}
    if keys is not None:
        settings |= {"API_KEYS_FILE": keys}
    environment = os.environ | {f"CARRYOVER_{name}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None  # noqa: S101  (for the type checker: it is a pipe)
        while "listens on" not in process.stdout.readline():
            if process.poll() is not None:
                raise RuntimeError("the server did not start")
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def request(session: str, token: str | None) -> bytes:
    """A chunk of one observation."""
    key = f"authorization: Bearer {token}\r\n" if token else ""
    head = f"POST /sessions/{session}/observations HTTP/1.1\r\nhost: h\r\n{key}"
    return f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY


async def answer(reader: asyncio.StreamReader) -> int:
    """The status of the next answer; its body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(head[9:12])


async def paced(port: int, name: str, token: str | None, seconds: float) -> list[float]:
    """Latencies of one connection that sends a chunk every so often."""
    reader, writer = await asyncio.open_connection(HOST, port)
    told, taken, end = request(name, token), [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        writer.write(told)
        status = await answer(reader)
        took = time.perf_counter() - began
        if status != 200:
            raise RuntimeError(f"the quiet tenant was answered {status}")
        taken.append(took)
        await asyncio.sleep(max(QUIET_SECONDS_BETWEEN - took, 0))
    writer.close()
    return taken


async def quiet(port: int, token: str, seconds: float) -> float:
    """The quiet tenant's p99, in seconds."""
    some = await asyncio.gather(*(paced(port, f"q{i}", token, seconds) for i in range(QUIET_CONNECTIONS)))
    taken = sorted(one for few in some for one in few[5:])
    return taken[int(len(taken) * 0.99)]


async def flood(port: int, token: str | None, seconds: float, in_flight: int) -> int:
    """As fast as it is answered, from every connection; how many chunks were applied."""
    end, applied = time.perf_counter() + seconds, 0

    async def one(name: str) -> None:
        nonlocal applied
        reader, writer = await asyncio.open_connection(HOST, port)
        told = request(name, token)
        writer.write(told * in_flight)
        while time.perf_counter() < end:
            status = await answer(reader)
            applied += status == 200
            writer.write(told)
        writer.close()

    tasks = [asyncio.create_task(one(f"f{i}")) for i in range(FLOOD_CONNECTIONS)]
    await asyncio.wait(tasks, timeout=seconds + 1)
    for task in tasks:
        task.cancel()
    return applied


@contextmanager
def flooding(port: int, token: str) -> Iterator[None]:
    """The flood comes from a process of its own: it must not hold up the clock that measures."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.fairness", "--flood", str(port), token])
    time.sleep(1.0)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def fairness(folder: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The quiet tenant's p99 alone, beside a flood that is bounded, and beside one that is not."""
    tokens, keys = {}, []
    bounded = Quota(observations_per_second=FLOOD_RATE)
    for name, limits in {"quiet": Quota(), "bounded": bounded, "free": Quota()}.items():
        key, tokens[name] = made(name, limits=limits)
        keys.append(key)
    write(folder / "keys.json", keys)
    told: dict[str, list[float]] = {"alone": [], "beside a bounded flood": [], "beside a free one": []}
    with serving(folder, folder / "keys.json") as (port, _):
        asyncio.run(quiet(port, tokens["quiet"], 1.0))
        for _ in range(rounds):
            told["alone"].append(asyncio.run(quiet(port, tokens["quiet"], seconds)))
            with flooding(port, tokens["bounded"]):
                told["beside a bounded flood"].append(asyncio.run(quiet(port, tokens["quiet"], seconds)))
            with flooding(port, tokens["free"]):
                told["beside a free one"].append(asyncio.run(quiet(port, tokens["quiet"], seconds)))
    return told


def cost(folder: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The server's CPU time a chunk, in seconds, with keys and metrics and without."""
    key, token = made("one")
    write(folder / "one.json", [key])
    told: dict[str, list[float]] = {"with keys and metrics": [], "with neither": []}
    for _ in range(rounds):
        for name, keys, program, its in (
            ("with neither", None, BARE + SERVE, None),
            ("with keys and metrics", folder / "one.json", SERVE, token),
        ):
            with serving(folder, keys, program) as (port, pid):
                asyncio.run(flood(port, its, 1.0, 1))
                before = cpu_seconds(pid)
                applied = asyncio.run(flood(port, its, seconds, 1))
                told[name].append((cpu_seconds(pid) - before) / applied)
    return told


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def printed(title: str, told: dict[str, list[float]], unit: float, word: str) -> None:
    """Medians, and each over the first."""
    print(title)
    first = statistics.median(next(iter(told.values())))
    for name, values in told.items():
        middle = statistics.median(values)
        print(f"  {name:24} {middle * unit:8.2f} {word}  {middle / first:5.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--flood", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("fairness", "cost"))
    told = parser.parse_args()
    if told.flood:
        asyncio.run(flood(int(told.flood[0]), told.flood[1], 3600.0, FLOOD_IN_FLIGHT))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_seeded_weights(folder / "weights.safetensors")
        write_artifact(folder / "weights.safetensors", folder / "models" / "bench")
        if told.only != "cost":
            printed("p99 of a quiet tenant", fairness(folder, told.rounds, told.seconds), 1e3, "ms")
        if told.only != "fairness":
            both = cost(folder, told.rounds, told.seconds)
            printed("CPU time of the server a chunk", dict(reversed(both.items())), 1e6, "us")
    print(json.dumps({"rounds": told.rounds, "seconds": told.seconds}))


if __name__ == "__main__":
    main()
