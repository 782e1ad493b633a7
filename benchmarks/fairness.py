"""Measure how much a flooding tenant raises another tenant's p99, and how much CPU time keys and metrics
cost.

    python -m benchmarks.fairness --rounds 5

A quiet tenant sends a chunk of one observation over each of 8 connections every 20 ms, either on all
connections at once or at random times. A second tenant floods with wrk from 64 connections with 4 chunks in
flight each. It ignores `Retry-After`. It has a quota of 1,000 observations a second, or no quota. The server
has a core to itself. All clients share the other core, where the quiet client has priority (SCHED_FIFO), so
that it measures the server and not its own wait for a core. The control shows how well this works: the same
flood against another server process on the clients' core. The quiet tenant alone is measured before each of
these.

Then 64 connections send chunks of one observation to a server with keys and metrics, and to a server without
them. Both run, and they are measured for a second each in changing order. Rates vary on shared cores, so the
server's CPU time per chunk is compared, and the ratio of each pair.
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

from app.access.keys import generate_key, write
from app.access.quotas import Quota
from benchmarks.dialects import HOST
from benchmarks.load import percentile
from benchmarks.ports import free_port
from benchmarks.reference import write_artifact, write_seeded_weights
from benchmarks.servers import ONE_THREAD
from benchmarks.wrk import run_wrk

SERVER_CORE, SENDERS_CORE = 0, 1
SERVE = "from app.cli import main; main()"
WITHOUT_METRICS = """
from app.engine import reply
from app.observability.metrics import Histogram, Metrics, StageTimer
def disable(owner, name):
    getattr(owner, name)  # an error if it is called something else now
    setattr(owner, name, lambda *_: None)
disable(Metrics, "record_request")
disable(Histogram, "add")
disable(StageTimer, "begin")
disable(StageTimer, "end")
disable(reply, "_count")
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
    """Start a server on a free port, and yield the port and the process id."""
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
    """Return a request with a chunk of one observation."""
    key = f"authorization: Bearer {token}\r\n" if token else ""
    head = f"POST /sessions/{session}/observations HTTP/1.1\r\nhost: localhost\r\n{key}"
    return f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY


def quiet(port: int, token: str, seconds: float, together: bool) -> float:
    """Return the quiet tenant's p99, in seconds; `together`: all connections send at once."""
    draw, period = random.Random(0), PERIOD
    requests = [request(f"q{i}", token) for i in range(QUIET_CONNECTIONS)]
    taken: list[float] = []
    sent: dict[socket.socket, tuple[int, float]] = {}
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((HOST, port))) for _ in requests]
        begin = time.perf_counter()
        due = [begin + (0 if together else draw.random() * period) for _ in requests]
        while (now := time.perf_counter()) < begin + seconds or sent:
            for i, connection in enumerate(connections):
                if due[i] <= now < begin + seconds and connection not in sent:
                    sent[connection] = i, time.perf_counter()
                    connection.sendall(requests[i])
                    number = int((now - begin) / period) + 1
                    due[i] = begin + (number + (0 if together else draw.random())) * period
            coming = [due[i] for i, connection in enumerate(connections) if connection not in sent]
            wait = max(min(coming, default=now + 1.0) - time.perf_counter(), 0.0)
            for connection in select.select(list(sent), [], [], wait)[0]:
                if not connection.recv(65_536).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("the quiet tenant was refused")
                taken.append(time.perf_counter() - sent.pop(connection)[1])
    return percentile(taken, 0.99)


@contextmanager
def flooding(port: int, token: str, folder: Path) -> Iterator[None]:
    """Flood the server with wrk, in a process of its own."""
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
    """Return the quiet tenant's p99 in each round: alone, with the control, and with each kind of flood."""
    tokens, keys = {}, []
    bounded = Quota(observations_per_second=FLOOD_RATE)
    for name, limits in {"quiet": Quota(), "bounded": bounded, "free": Quota()}.items():
        key, tokens[name] = generate_key(name, limits=limits)
        keys.append(key)
    write(folder / "keys.json", keys)
    samples: dict[str, list[float]] = {"alone": []}
    with (
        serving(folder, folder / "keys.json") as (port, _),
        serving(folder, folder / "keys.json", core=SENDERS_CORE) as (other, _),
    ):
        quiet(port, tokens["quiet"], 1.0, together)
        for _ in range(rounds):
            for name, target, tenant in (
                ("control", other, "free"),
                ("flood with a quota", port, "bounded"),
                ("flood without a quota", port, "free"),
            ):
                samples["alone"].append(quiet(port, tokens["quiet"], seconds, together))
                with flooding(target, tokens[tenant], folder):
                    samples.setdefault(name, []).append(quiet(port, tokens["quiet"], seconds, together))
    return samples


def cost(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the server's CPU time per chunk, in seconds, without and with keys and metrics; by pairs."""
    key, token = generate_key("one")
    write(folder / "one.json", [key])
    payload: dict[str, list[float]] = {"without both": [], "with keys and metrics": []}
    with (
        serving(folder, None, WITHOUT_METRICS + SERVE) as bare,
        serving(folder, folder / "one.json") as full,
    ):
        variants = [("without both", bare, None), ("with keys and metrics", full, token)]
        for number in range(-1, rounds):  # the first is a warm-up
            for name, (port, pid), key_token in variants[:: 1 if number % 2 else -1]:
                streams = {f"s{i}": [request(f"s{i}", key_token)] for i in range(FLOOD_CONNECTIONS)}
                before = cpu_seconds(pid)
                load = run_wrk(port, streams, '"session":"([^"]+)"', 1, SENDERS_CORE, folder)
                if number >= 0:
                    payload[name].append((cpu_seconds(pid) - before) / load.requests)
    return payload


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's main thread, in seconds."""
    words = Path(f"/proc/{pid}/schedstat").read_text().split()  # nanoseconds
    return int(words[0]) / 1e9


def print_medians(title: str, samples: dict[str, list[float]], unit: float, word: str) -> None:
    """Print the medians, and the ratio of each to the first."""
    print(title)
    first = statistics.median(next(iter(samples.values())))
    for name, values in samples.items():
        middle = statistics.median(values)
        print(f"  {name:24} {middle * unit:8.2f} {word}  {middle / first:5.2f}x", flush=True)


def set_priority() -> None:
    """Give this process priority on the clients' core, if the system permits it."""
    os.sched_setaffinity(0, {SENDERS_CORE})
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--only", choices=("fairness", "cost"), help="only one of the two parts")
    options = parser.parse_args()
    set_priority()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_seeded_weights(folder / "weights.safetensors")
        write_artifact(folder / "weights.safetensors", folder / "models" / "bench")
        if options.only != "cost":
            for how, together in (("all connections at once", True), ("at random times", False)):
                p99 = fairness(folder, options.rounds, options.seconds, together)
                print_medians(f"p99 of the quiet tenant, {how}", p99, 1e3, "ms")
        if options.only != "fairness":
            both = cost(folder, 4 * options.rounds)
            print_medians("server CPU time per chunk", both, 1e6, "us")
            pairs = [full / bare for bare, full in zip(*both.values(), strict=True)]
            print(f"  median ratio of the pairs {statistics.median(pairs):5.2f}x")
    print(json.dumps({"rounds": options.rounds, "seconds": options.seconds}))


if __name__ == "__main__":
    main()
