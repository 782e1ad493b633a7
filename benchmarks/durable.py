"""Measure the cost of durability: the memory store, `commit` and `250ms`, with resident and evicted sessions.

    python -m benchmarks.durable [--rounds 3] [--seconds 5] [--folder /var/tmp] [--out docs/reference]

64 connections, 1 step per chunk, every answer checked; the rounds are interleaved. --folder must be on a real
disk. Writes docs/reference/durable.md.
"""

from __future__ import annotations

import argparse
from statistics import median

from benchmarks.load import Load
from benchmarks.measure import Bench, Scenario, measure
from benchmarks.run import PAGES
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
from benchmarks.stores import fsync_seconds
from benchmarks.ticks import ticks

MODES: dict[str, dict[str, str]] = {
    "memory": {},
    "commit": {"CARRYOVER_STORE": "sqlite:{folder}/commit.sqlite"},
    "250ms": {"CARRYOVER_STORE": "sqlite:{folder}/period.sqlite", "CARRYOVER_DURABILITY": "250ms"},
}


def main() -> None:
    options = parse_options(__doc__, PAGES, "durable.md")
    with own_folder(options) as folder:
        modes = {
            mode: {name: value.replace("{folder}", str(folder)) for name, value in settings.items()}
            for mode, settings in MODES.items()
        }
        with serving(modes, options, folder) as (servers, bench):
            lines = _figures(servers, bench, options)
    write_page(lines, options.out / "durable.md")


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
            evicted[mode].append(measure_evicted(started, bench, round_number))
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


if __name__ == "__main__":
    main()
