"""Measure the cost of a shared store: the memory store and Redis, and the commit's share of the tick.

    python -m benchmarks.shared [--rounds 3] [--seconds 5] [--out docs]

64 connections, 1 step per chunk, every answer checked; the rounds are interleaved. Redis runs on loopback. It
shares the core of the load generator and writes an append-only file (everysec) on the disk of --folder.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from safetensors.torch import load_file

from benchmarks.dialects import SessionInPath
from benchmarks.failover.processes import RedisServer
from benchmarks.load import Load
from benchmarks.measure import Bench, Scenario, measure
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.servers import Running, Server, known_servers, running
from benchmarks.streams import Stream
from benchmarks.ticks import ticks
from benchmarks.wrk import run_wrk

CONNECTIONS = 64
CROWD, RESIDENT = 10_000, 2_048
DIALECT = SessionInPath()


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {options.generator_core})
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        store = stack.enter_context(RedisServer(folder / "redis", "--appendonly", "yes"))
        servers = {
            mode: stack.enter_context(running(_server(mode, url), options.server_core, weights, folder))
            for mode, url in (("memory", None), ("redis", store.url))
        }
        judge = Reference(load_file(weights))
        bench = Bench(options.server_core, options.generator_core, options.seconds, folder, judge)
        lines = _figures(servers, bench, options.rounds)
    page = "\n".join(lines)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "shared.md").write_text(page + "\n")
    print(page)


def _figures(servers: dict[str, Running], bench: Bench, rounds: int) -> list[str]:
    samples: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in servers}
    for round_number in range(rounds):
        for mode, started in servers.items():
            before = ticks(started.port)
            sample = measure(
                Scenario(started.server.name, "http", CONNECTIONS, 1), started, bench, f"round{round_number}"
            )
            share = ticks(started.port).since(before).share("commit")
            cold = _measure_evicted(started, bench, round_number)
            bulk = measure(
                Scenario(started.server.name, "bulk-binary", 1, 1), started, bench, f"bulk{round_number}"
            )
            row = (
                sample.requests, sample.cpu_us, sample.p50_us / 1e3, sample.p99_us / 1e3, share,
                cold.requests / cold.seconds, bulk.session_steps,
            )  # fmt: skip
            samples[mode].append(row)
            print(mode, *(f"{value:,.2f}" for value in row), flush=True)
    base = median(row[0] for row in samples["memory"])
    lines = [
        f"{CONNECTIONS} connections, 1 step per chunk, medians of {rounds} rounds of {bench.seconds} s. "
        f'"Evicted sessions" uses {CROWD:,} sessions, drawn at random, of which {RESIDENT:,} are resident.',
        "",
        "| store | requests/s | relative to memory | server CPU us per request | p50 ms | p99 ms "
        "| commit's share of the tick | evicted sessions, requests/s | bulk, session-steps/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for mode, rows in samples.items():
        requests, cpu, half, most, share, cold_rate, bulk_rate = (median(c) for c in zip(*rows, strict=True))
        lines.append(
            f"| {mode} | {requests:,.0f} | {requests / base:.2f} | {cpu:.1f} | {half:.2f} | {most:.2f} "
            f"| {share:.2f} | {cold_rate:,.0f} | {bulk_rate:,.0f} |"
        )
    return lines


def _measure_evicted(started: Running, bench: Bench, round_number: int) -> Load:
    """Drive sessions most of which have left the slab: each request brings its own back."""
    names = [f"crowd-{time.monotonic_ns()}-{number}" for number in range(CROWD)]
    random.Random(round_number).shuffle(names)
    requests = {name: [DIALECT.request(name, Stream(name, 1).chunk(1), "middle")] for name in names}
    pattern = DIALECT.session_pattern
    return run_wrk(
        started.port, requests, pattern, bench.seconds, bench.generator_core, bench.folder, CONNECTIONS
    )


def _server(mode: str, url: str | None) -> Server:
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    settings = {"CARRYOVER_RESIDENT_SESSIONS": str(RESIDENT)} | ({"CARRYOVER_STORE": url} if url else {})
    return replace(ours, name=mode, environment={**ours.environment, **settings})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="for each figure")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=(os.cpu_count() or 2) - 1)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for shared.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
