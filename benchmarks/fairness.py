"""What a tenant that floods does to another's p99, and what keys and metrics cost: side by side, in one run.

    python -m benchmarks.fairness --rounds 5

A quiet tenant sends a chunk of one observation over each of 8 connections every 20 ms, all at once or each
when it likes. A second one floods by wrk from 64 connections, each with 4 chunks in flight, not heeding
`Retry-After`: with a quota of 1,000 observations a second, and with none. The server has a core to itself.
All that sends shares the other, where the quiet client goes first (SCHED_FIFO): what it measures is the
server, and not its wait for a core. The same flood against another process of the same size, on the senders'
core, is the control: it says how well that is achieved. The quiet tenant alone is measured before each.

Then 64 connections stream one observation a chunk against a server with keys and metrics, and against one
with neither, both running, by turns of a second, the order changing. What is compared is the server's own
CPU time a chunk, and the ratio of each pair: shared cores make a rate noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from app.access.keys import made, write
from app.access.quotas import Quota
from benchmarks.dialects import HOST
from benchmarks.load import percentile
from benchmarks.reference import write_artifact, write_seeded_weights
from benchmarks.servers import ONE_THREAD, free_port
from benchmarks.wrk import run_wrk

SERVER_CORE, SENDERS_CORE = 0, 1
SERVE = "from app.cli import main; main()"
BARE = """
from app import metrics
from app.engine import Engine
nothing = lambda *_: None
metrics.Metrics.answered = metrics.Histogram.add = metrics.Stages.begin = metrics.Stages.ended = nothing
Engine._count = nothing
"""
QUIET_CONNECTIONS, PERIOD = 8, 0.02
FLOOD_CONNECTIONS, FLOOD_IN_FLIGHT, FLOOD_RATE = 64, 4, 1000.0
BODY = b'{"observations":[[0.5]]}'
FLOOD = """
local turn, template, deep = 0, %s, %d
function request()
  local out = {}
  for i = 1, deep do
    turn = turn %% 256 + 1
    out[i] = template:gsub("SESSION", "f" .. turn)
  end
  return table.concat(out)
end
"""
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(
    folder: Path, keys: Path | None, program: str = SERVE, core: int = SERVER_CORE
) -> Iterator[tuple[int, int]]:
    """A server on a port and a core of its own: its port and its process."""
    port = free_port()
    settings = {"PORT": port, "HOST": HOST, "MODELS": folder / "models", "LOG_LEVEL": "error"}
    if keys is not None:
        settings |= {"API_KEYS_FILE": keys}
    environment = (
        os.environ | ONE_THREAD | {f"CARRYOVER_{name}": str(value) for name, value in settings.items()}
    )
    command = ["taskset", "-c", str(core), sys.executable, "-c", program, "serve"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
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
    head = f"POST /sessions/{session}/observations HTTP/1.1\r\nhost: localhost\r\n{key}"
    return f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY


def quiet(port: int, token: str, seconds: float, together: bool) -> float:
    """The quiet tenant's p99, in seconds. `together`: all send at once."""
    draw, period = random.Random(0), PERIOD
    told = [request(f"q{i}", token) for i in range(QUIET_CONNECTIONS)]
    taken: list[float] = []
    sent: dict[socket.socket, tuple[int, float]] = {}
    with ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection((HOST, port))) for _ in told]
        begin = time.perf_counter()
        due = [begin + (0 if together else draw.random() * period) for _ in told]
        while (now := time.perf_counter()) < begin + seconds or sent:
            for i, line in enumerate(lines):
                if due[i] <= now < begin + seconds and line not in sent:
                    sent[line] = i, time.perf_counter()
                    line.sendall(told[i])
                    turn = int((now - begin) / period) + 1
                    due[i] = begin + (turn + (0 if together else draw.random())) * period
            coming = [due[i] for i, line in enumerate(lines) if line not in sent]
            wait = max(min(coming, default=now + 1.0) - time.perf_counter(), 0.0)
            for line in select.select(list(sent), [], [], wait)[0]:
                if not line.recv(65_536).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("the quiet tenant was refused")
                taken.append(time.perf_counter() - sent.pop(line)[1])
    return percentile(taken, 0.99)


@contextmanager
def flooding(port: int, token: str, folder: Path) -> Iterator[None]:
    """As fast as it is answered, from a process of its own."""
    script = folder / "flood.lua"
    script.write_text(FLOOD % (json.dumps(request("SESSION", token).decode()), FLOOD_IN_FLIGHT))
    command = [
        "taskset",
        "-c",
        str(SENDERS_CORE),
        "wrk",
        "-t",
        "1",
        "-c",
        str(FLOOD_CONNECTIONS),
        "-d",
        "3600",
    ]
    command += ["-s", str(script), f"http://{HOST}:{port}/"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(1.0)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def fairness(folder: Path, rounds: int, seconds: float, together: bool) -> dict[str, list[float]]:
    """The quiet tenant's p99 alone, beside the control, a flood that is bounded, and one that is not."""
    tokens, keys = {}, []
    bounded = Quota(observations_per_second=FLOOD_RATE)
    for name, limits in {"quiet": Quota(), "bounded": bounded, "free": Quota()}.items():
        key, tokens[name] = made(name, limits=limits)
        keys.append(key)
    write(folder / "keys.json", keys)
    told: dict[str, list[float]] = {"alone": []}
    with (
        serving(folder, folder / "keys.json") as (port, _),
        serving(folder, folder / "keys.json", core=SENDERS_CORE) as (other, _),
    ):
        quiet(port, tokens["quiet"], 1.0, together)
        for _ in range(rounds):
            for name, where, whose in (
                ("the control", other, "free"),
                ("beside a bounded flood", port, "bounded"),
                ("beside a free one", port, "free"),
            ):
                told["alone"].append(quiet(port, tokens["quiet"], seconds, together))
                with flooding(where, tokens[whose], folder):
                    told.setdefault(name, []).append(quiet(port, tokens["quiet"], seconds, together))
    return told


def cost(folder: Path, rounds: int) -> dict[str, list[float]]:
    """The server's CPU time a chunk, in seconds, with neither keys nor metrics, and with both; by pairs."""
    key, token = made("one")
    write(folder / "one.json", [key])
    told: dict[str, list[float]] = {"with neither": [], "with keys and metrics": []}
    with (
        serving(folder, None, BARE + SERVE) as bare,
        serving(folder, folder / "one.json") as full,
    ):
        turns = [("with neither", bare, None), ("with keys and metrics", full, token)]
        for turn in range(-1, rounds):  # the first warms up
            for name, (port, pid), its in turns[:: 1 if turn % 2 else -1]:
                streams = {f"s{i}": [request(f"s{i}", its)] for i in range(FLOOD_CONNECTIONS)}
                before = cpu_seconds(pid)
                load = run_wrk(port, streams, '"session":"([^"]+)"', 1, SENDERS_CORE, folder)
                if turn >= 0:
                    told[name].append((cpu_seconds(pid) - before) / load.requests)
    return told


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    words = Path(f"/proc/{pid}/schedstat").read_text().split()  # of its main thread, in nanoseconds
    return int(words[0]) / 1e9


def printed(title: str, told: dict[str, list[float]], unit: float, word: str) -> None:
    """Medians, and each over the first."""
    print(title)
    first = statistics.median(next(iter(told.values())))
    for name, values in told.items():
        middle = statistics.median(values)
        print(f"  {name:24} {middle * unit:8.2f} {word}  {middle / first:5.2f}x", flush=True)


def go_first() -> None:
    """Of all on the senders' core, where the system allows it."""
    os.sched_setaffinity(0, {SENDERS_CORE})
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", choices=("fairness", "cost"))
    told = parser.parse_args()
    go_first()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_seeded_weights(folder / "weights.safetensors")
        write_artifact(folder / "weights.safetensors", folder / "models" / "bench")
        if told.only != "cost":
            for how, together in (("all at once", True), ("each when it likes", False)):
                p99 = fairness(folder, told.rounds, told.seconds, together)
                printed(f"p99 of a quiet tenant, {how}", p99, 1e3, "ms")
        if told.only != "fairness":
            both = cost(folder, 4 * told.rounds)
            printed("CPU time of the server a chunk", both, 1e6, "us")
            pairs = [full / bare for bare, full in zip(*both.values(), strict=True)]
            print(f"  median of the pairs' ratios {statistics.median(pairs):5.2f}x")
    print(json.dumps({"rounds": told.rounds, "seconds": told.seconds}))


if __name__ == "__main__":
    main()
