"""Measure the cost of a shared store: the memory store and Redis, and the commit's share of the tick.

    python -m benchmarks.shared [--rounds 3] [--seconds 5] [--out docs]

64 connections, 1 step per chunk, every answer checked; the rounds are interleaved. Redis runs on loopback. It
shares the core of the load generator and writes an append-only file (everysec) on the disk of --folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from benchmarks.failover.processes import RedisServer
from benchmarks.measure import Bench, Scenario, measure
from benchmarks.servers import Running
from benchmarks.store_modes import (
    CONNECTIONS,
    CROWD,
    RESIDENT,
    measure_evicted,
    own_folder,
    parse_options,
    serving,
    write_page,
)
from benchmarks.ticks import ticks


def main() -> None:
    options = parse_options(__doc__, Path("runs"), "shared.md")
    with (
        own_folder(options) as folder,
        RedisServer(folder / "redis", "--appendonly", "yes") as store,
        serving({"memory": {}, "redis": {"CARRYOVER_STORE": store.url}}, options, folder) as (servers, bench),
    ):
        lines = _figures(servers, bench, options.rounds)
    write_page(lines, options.out / "shared.md")


def _figures(servers: dict[str, Running], bench: Bench, rounds: int) -> list[str]:
    samples: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in servers}
    for round_number in range(rounds):
        for mode, started in servers.items():
            before = ticks(started.port)
            sample = measure(
                Scenario(started.server.name, "http", CONNECTIONS, 1), started, bench, f"round{round_number}"
            )
            share = ticks(started.port).since(before).share("commit")
            cold = measure_evicted(started, bench, round_number, f"crowd-{time.monotonic_ns()}")
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


if __name__ == "__main__":
    main()
