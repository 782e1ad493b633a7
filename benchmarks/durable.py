"""Measure the cost of durability: the memory store, `commit` and `250ms`, with resident and evicted sessions.

    python -m benchmarks.durable [--rounds 3] [--seconds 5] [--folder /var/tmp] [--out docs/reference]

64 connections, 1 step per chunk, every answer checked; the rounds are interleaved. --folder must be on a real
disk. Writes docs/reference/durable.md.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from safetensors.torch import load_file

from benchmarks.dialects import SessionInPath
from benchmarks.load import Load
from benchmarks.measure import Bench, Scenario, measure
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.run import PAGES
from benchmarks.servers import Running, Server, known_servers, running
from benchmarks.stores import fsync_seconds
from benchmarks.streams import Stream
from benchmarks.ticks import ticks
from benchmarks.wrk import run_wrk

CONNECTIONS = 64
CROWD, RESIDENT = 10_000, 2_048
DIALECT = SessionInPath()

MODES: dict[str, dict[str, str]] = {
    "memory": {},
    "commit": {"CARRYOVER_STORE": "sqlite:{folder}/commit.sqlite"},
    "250ms": {"CARRYOVER_STORE": "sqlite:{folder}/period.sqlite", "CARRYOVER_DURABILITY": "250ms"},
}


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {options.generator_core})
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        servers = {
            mode: stack.enter_context(running(_server(mode, folder), options.server_core, weights, folder))
            for mode in MODES
        }
        judge = Reference(load_file(weights))
        bench = Bench(options.server_core, options.generator_core, options.seconds, folder, judge)
        lines = _figures(servers, bench, options)
    page = "\n".join(lines)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "durable.md").write_text(page + "\n")
    print(page)


def _figures(servers: dict[str, Running], bench: Bench, options: argparse.Namespace) -> list[str]:
    samples: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in servers}
    evicted: dict[str, list[Load]] = {mode: [] for mode in servers}
    syncs = []
    for round_number in range(options.rounds):
        syncs.append(fsync_seconds(bench.folder, 200))
        for mode, started in servers.items():
            scenario = Scenario(started.server.name, "http", CONNECTIONS, 1)
            before = ticks(started.port)
            sample = measure(scenario, started, bench, f"round{round_number}")
            tick = ticks(started.port).since(before).mean
            row = (sample.requests, sample.cpu_us, sample.p50_us / 1e3, sample.p99_us / 1e3, 1e3 * tick)
            samples[mode].append(row)
            print(mode, *(f"{value:,.2f}" for value in samples[mode][-1]), flush=True)
        for mode, started in servers.items():
            evicted[mode].append(_measure_evicted(started, bench, round_number))
    base = median(row[0] for row in samples["memory"])
    p50, p99 = (1e3 * median(sync[i] for sync in syncs) for i in (0, 1))
    lines = [
        "# Cost of durability",
        "",
        "This page shows what it costs to keep sessions on disk. `python -m benchmarks.durable` wrote it. "
        "The modes are:",
        "",
        "- `memory`: the memory store. Nothing is written to disk.",
        "- `commit`: SQLite with `CARRYOVER_DURABILITY=commit`. An answered chunk is on disk.",
        "- `250ms`: SQLite with `CARRYOVER_DURABILITY=250ms`. An answered chunk is on disk within 250 ms.",
        "",
        f"The requests come from {CONNECTIONS} connections with 1 step per chunk. Each figure is the median "
        f'of {options.rounds} rounds of {options.seconds} s. The columns "evicted" use {CROWD:,} sessions, '
        f"drawn at random, of which {RESIDENT:,} fit in memory. Most requests there load a session from the "
        "store first.",
        "",
        f"An fsync after a write of 4 KiB takes {p50:.2f} ms (p50) and {p99:.2f} ms (p99) on this machine. "
        '"Target p99" is the p99 of one fsync plus two mean ticks of the same mode. A tick is one pass of '
        "the engine over a batch of chunks.",
        "",
        "| mode | requests/s | relative to memory | CPU us per request | p50 ms | p99 ms | target p99 ms "
        "| evicted: requests/s | evicted: p99 ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for mode in servers:
        requests, cpu, half, most, tick = (median(column) for column in zip(*samples[mode], strict=True))
        aim = p99 + 2 * tick
        cold = median(load.requests / load.seconds for load in evicted[mode])
        cold_p99 = median(load.p99_us for load in evicted[mode]) / 1e3
        lines.append(
            f"| {mode} | {requests:,.0f} | {requests / base:.2f} | {cpu:.1f} | {half:.2f} | {most:.2f} "
            f"| {aim:.2f} | {cold:,.0f} | {cold_p99:.2f} |"
        )
    return lines


def _measure_evicted(started: Running, bench: Bench, round_number: int) -> Load:
    """Drive sessions most of which have left the slab: each request brings its own back."""
    names = [f"crowd-{number}" for number in range(CROWD)]
    random.Random(round_number).shuffle(names)
    requests = {name: [DIALECT.request(name, Stream(name, 1).chunk(1), "middle")] for name in names}
    pattern = DIALECT.session_pattern
    return run_wrk(
        started.port, requests, pattern, bench.seconds, bench.generator_core, bench.folder, CONNECTIONS
    )


def _server(mode: str, folder: Path) -> Server:
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    settings = {name: value.replace("{folder}", str(folder)) for name, value in MODES[mode].items()}
    room = {"CARRYOVER_RESIDENT_SESSIONS": str(RESIDENT)}
    return replace(ours, name=mode, environment={**ours.environment, **room, **settings})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="for each figure")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=(os.cpu_count() or 2) - 1)
    parser.add_argument("--out", type=Path, default=PAGES, help="folder for durable.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
