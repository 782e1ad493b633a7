"""Measure one and two replicas with one Redis on two cores, and each process's CPU time per request.

    python -m benchmarks.replicas [--rounds 3] [--seconds 5] [--out docs]

64 connections, 1 step per chunk, every answer checked; the rounds are interleaved. The first replica has
one core. The second replica, Redis (append-only file, everysec) and the load generators share the other
core. So the throughput of two replicas does not apply to machines with more cores. The processor time per
request does: the process that first uses its whole core limits the number of useful replicas.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from safetensors.torch import load_file

from benchmarks.failover.processes import RedisServer
from benchmarks.measure import Bench, Sample, Scenario, measure
from benchmarks.processes import cpu_seconds
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.servers import Running, known_servers, running

CONNECTIONS = 64
CORES = (0, 1)  # of the replicas; all else has the last
HALVES = 2  # load generators, a replica each where there are two

Row = tuple[float, ...]  # requests/s, p50 and p99 in ms, CPU us a request of replicas, Redis, and generator


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {CORES[-1]})
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        store = stack.enter_context(RedisServer(folder / "redis", "--appendonly", "yes"))
        (ours,) = (server for server in known_servers() if server.name == "carryover")
        settings = {**ours.environment, "CARRYOVER_STORE": store.url}
        replicas = [
            stack.enter_context(
                running(replace(ours, name=f"replica{core}", environment=settings), core, weights, folder)
            )
            for core in CORES
        ]
        benches = [_bench(half, weights, options.seconds, folder) for half in range(HALVES)]
        rows: dict[int, list[Row]] = {1: [], 2: []}
        for round_number in range(options.rounds):
            for count, found in rows.items():
                found.append(_together(replicas[:count], benches, store, f"{count}-{round_number}"))
                print(count, *(f"{value:,.2f}" for value in found[-1]), flush=True)
    page = "\n".join(_page(rows, options))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "replicas.md").write_text(page + "\n")
    print(page)


def _together(replicas: Sequence[Running], benches: Sequence[Bench], store: RedisServer, run: str) -> Row:
    """Both halves of the load at once, each on its replica, or both on the one there is."""

    def half(i: int) -> Sample:
        started = replicas[i % len(replicas)]
        scenario = Scenario(started.server.name, "http", CONNECTIONS // HALVES, 1)
        return measure(scenario, started, benches[i], f"{run}-{i}")

    before = _cpu(replicas, store)
    with ThreadPoolExecutor(HALVES) as pool:
        samples = list(pool.map(half, range(HALVES)))
    rate = sum(sample.requests for sample in samples)
    requests = sum(sample.requests * bench.seconds for sample, bench in zip(samples, benches, strict=True))
    spent = [1e6 * (now - then) / requests for now, then in zip(_cpu(replicas, store), before, strict=True)]
    p50 = median(sample.p50_us for sample in samples) / 1e3
    return rate, p50, max(sample.p99_us for sample in samples) / 1e3, *spent


def _cpu(replicas: Sequence[Running], store: RedisServer) -> tuple[float, float, float]:
    """Seconds of processor time of the replicas, the Redis, and the load generators that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    redis = cpu_seconds(store.process.pid) if store.process is not None else 0.0
    servers = sum(cpu_seconds(started.process.pid) for started in replicas)
    return servers, redis, children.ru_utime + children.ru_stime


def _page(rows: dict[int, list[Row]], options: argparse.Namespace) -> list[str]:
    lines = [
        f"{CONNECTIONS} connections, 1 step per chunk, medians of {options.rounds} rounds of "
        f"{options.seconds} s. The second replica, Redis and the load generators share one of two cores.",
        "",
        "| replicas | requests/s | p50 ms | p99 ms | replicas' CPU us per request | Redis CPU us per request "
        "| load generators' CPU us per request |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, found in rows.items():
        rate, p50, p99, *spent = (median(column) for column in zip(*found, strict=True))
        cells = " | ".join(f"{value:.1f}" for value in spent)
        lines.append(f"| {count} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {cells} |")
    return lines


def _bench(half: int, weights: Path, seconds: int, folder: Path) -> Bench:
    own = folder / f"half{half}"
    own.mkdir()
    return Bench(CORES[0], CORES[-1], seconds, own, Reference(load_file(weights)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="for each figure")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the append-only file")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for replicas.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
