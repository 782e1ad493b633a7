"""Calculate a deployment: the machines for a number of sessions, the first bottleneck, and the loss of a
machine.

    python -m benchmarks.scale [--sessions 10e6 --rate 1 --state 16384]

Everything is calculated from `Costs`, which were measured on one machine (see docs/explanation/scale.md).
Change a cost to see its effect. The hash ring and the loss of a machine are simulated, not estimated.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

GIBIT, GIB, MONTH_HOURS = 1e9 / 8, 2**30, 730


@dataclass(frozen=True)
class Costs:
    """Measured, but for the prices; a second of one core, unless it says otherwise.

    steps : applied by a replica whose clients stream over HTTP, the store included
    bulk_steps : the same where clients send many sessions in one request
    writes, script_writes : compare-and-set in one shard, a command each, and many in one script
    read_seconds : of the store, for a session that is not resident
    head_bytes : of a session beside its state: header, recent answers, key, the server's own
    wire_bytes : of a commit beside the value
    """

    steps: float = 13_000
    bulk_steps: float = 21_000
    writes: float = 31_000
    script_writes: float = 81_000
    write_bytes: float = 100e6  # through one shard with an append-only file
    read_seconds: float = 0.5e-3
    head_bytes: float = 500
    wire_bytes: float = 120
    load: float = 0.6  # of what it can do, that anything is planned for
    network_bytes: float = 10 * GIBIT  # of one machine, a second
    shard_memory: float = 24 * GIB
    detect_seconds: float = 1.0  # until the balancer has seen that a replica is gone
    core_hour: float = 0.04  # US dollars
    gigabyte_hour: float = 0.005


@dataclass(frozen=True)
class Fleet:
    """Sessions, observations a second of each, bytes of state; `every`: commits between two whole states.

    With `every` above 1 a commit is the chunk alone, and a state is written every so many: not built, see
    docs/explanation/scale.md.
    """

    sessions: float
    rate: float
    state: float
    every: int = 1
    copies: int = 2  # of the store: a primary and its replica
    bulk: bool = False

    @property
    def steps(self) -> float:
        return self.sessions * self.rate


@dataclass(frozen=True)
class Plan:
    """What it takes."""

    replicas: int
    shards_by: dict[str, int]
    store_bytes_second: float
    store_memory: float
    replica_memory: float
    dollars_month_million: float

    @property
    def shards(self) -> int:
        return max(self.shards_by.values())

    @property
    def breaks_first(self) -> str:
        return max(self.shards_by, key=lambda name: self.shards_by[name])


def plan(fleet: Fleet, costs: Costs) -> Plan:
    """Replicas and shards, each of one core, for a fleet."""
    steps = costs.bulk_steps if fleet.bulk else costs.steps
    replicas = math.ceil(fleet.steps / (steps * costs.load))
    value = (
        costs.head_bytes + costs.wire_bytes + (fleet.state / fleet.every if fleet.every > 1 else fleet.state)
    )
    written = fleet.steps * value
    kept = fleet.sessions * (costs.head_bytes + fleet.state + (fleet.every - 1) * 16)
    shards_by = {
        "writes": math.ceil(fleet.steps / (costs.writes * costs.load)),
        "bytes per shard": math.ceil(written / (costs.write_bytes * costs.load)),
        "network": math.ceil(written * fleet.copies / (costs.network_bytes * costs.load)),
        "memory": math.ceil(kept / (costs.shard_memory * 0.7)),
    }
    shards = max(shards_by.values())
    resident = fleet.sessions * (fleet.state + costs.head_bytes)
    cores = replicas + shards * fleet.copies
    gigabytes = (resident + kept * fleet.copies) / GIB + 0.5 * replicas
    dollars = MONTH_HOURS * (cores * costs.core_hour + gigabytes * costs.gigabyte_hour)
    return Plan(
        replicas, shards_by, written, kept * fleet.copies, resident / replicas, dollars / fleet.sessions * 1e6
    )


def imbalance(replicas: int, points: int, sessions: int = 1_000_000, seed: int = 0) -> float:
    """The share of the fullest replica over the mean, on a ring with so many points a replica."""
    rng = np.random.default_rng(seed)
    ring = rng.random(replicas * points)
    owner = np.repeat(np.arange(replicas), points)[np.argsort(ring)]
    places = np.searchsorted(np.sort(ring), rng.random(sessions)) % len(ring)
    counts = np.bincount(owner[places], minlength=replicas)
    return float(counts.max() / counts.mean())


def loss(fleet: Fleet, costs: Costs, replicas: int, step: float = 0.01) -> tuple[float, float]:
    """What the loss of one replica does: (worst wait, seconds until waits are as before).

    The sessions of the lost one wait until the balancer has seen it; then all of their clients come at once,
    each with a read, upon the others, which have only what they were not using.
    """
    capacity = (costs.bulk_steps if fleet.bulk else costs.steps) * (replicas - 1)
    arriving, share = fleet.steps, 1.0 / replicas
    # A client has one chunk in flight: who has one waiting sends no other.
    waiting_clients = min(fleet.sessions * share, arriving * share * costs.detect_seconds)
    queue = waiting_clients * (1.0 + costs.read_seconds * costs.steps)
    moved_left = max(0.0, fleet.sessions * share - waiting_clients)
    now, worst = costs.detect_seconds, costs.detect_seconds + queue / capacity
    while queue > 0.01 * capacity * step or moved_left > 1:
        cold = min(moved_left, arriving * share * step)
        moved_left -= cold
        queue = max(0.0, queue + arriving * step + cold * costs.read_seconds * costs.steps - capacity * step)
        now += step
        if queue <= 0.01 * capacity * step:
            break  # the rest comes back one by one, within capacity
    return worst, now


def lines(fleet: Fleet, costs: Costs) -> Iterator[str]:
    """The fleet as a table, full states beside a log of chunks."""
    state = fleet.state / 1024
    yield f"{fleet.sessions:,.0f} sessions, {_rate(fleet.rate)}, {state:g} KiB of state:\n"
    yield (
        "| requests | each commit writes | replicas | shards (limited by) | into the store, Gbit/s "
        "| store memory, GiB | resident sessions per replica, GiB | $ per month per million sessions |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for bulk in (False, True):
        for every in (1, 32):
            variant = replace(fleet, bulk=bulk, every=every)
            plan_ = plan(variant, costs)
            keeps = "the state" if every == 1 else f"the chunk; state every {every} commits"
            yield (
                f"| {'bulk' if bulk else 'one per chunk'} | {keeps} | {plan_.replicas:,} "
                f"| {plan_.shards:,} ({plan_.breaks_first}) | {plan_.store_bytes_second / GIBIT:,.1f} "
                f"| {plan_.store_memory / GIB:,.0f} | {plan_.replica_memory / GIB:.2f} "
                f"| {plan_.dollars_month_million:,.0f} |"
            )


def _rate(rate: float) -> str:
    """Observations per second of a session, in words."""
    if rate < 1:
        return f"1 observation each {1 / rate:g} s"
    return f"{rate:g} observation{'s' * (rate != 1)}/s each"


def ring_lines(costs: Costs, fleet: Fleet) -> Iterator[str]:
    """How even the ring is, and what a lost machine does, by the number of replicas."""
    yield (
        "| replicas | most loaded / mean, 16 points | most loaded / mean, 100 points "
        "| loss of one: longest wait, s | loss of one: back to normal after, s |"
    )
    yield "|---|---|---|---|---|"
    for replicas in (4, 16, 64, 256):
        steps = replicas * costs.steps * costs.load
        alike = replace(fleet, sessions=steps / fleet.rate, bulk=False)
        worst, over = loss(alike, costs, replicas)
        yield (
            f"| {replicas} | {imbalance(replicas, 16):.2f} | {imbalance(replicas, 100):.2f} "
            f"| {worst:.2f} | {over:.2f} |"
        )


def main() -> None:
    options = _options()
    costs = Costs()
    custom = Fleet(options.sessions, options.rate, options.state)
    fleets = [custom] if options.sessions else [Fleet(10e6, 1.0, 16_384), Fleet(100e6, 1 / 60, 16_384)]
    for fleet in fleets:
        print("\n".join(lines(fleet, costs)), end="\n\n")
    print("\n".join(ring_lines(costs, fleets[0])))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sessions", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=1.0, help="observations a second of each")
    parser.add_argument("--state", type=float, default=16_384.0, help="bytes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
