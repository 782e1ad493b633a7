"""Run all benchmark rows in interleaved rounds, and write `docs/reference/benchmarks.md` and its figure.

``python -m benchmarks.run`` (``--help`` lists the options) needs two cores, `taskset` and `wrk`.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from safetensors.torch import load_file

from benchmarks.connection import Connection
from benchmarks.figures import medians_of, promised_figures
from benchmarks.load import BadRun
from benchmarks.measure import Bench, Sample, Scenario, measure
from benchmarks.processes import machine_lines
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.report import Conditions, draw, markdown
from benchmarks.servers import Running, Server, ServerFailed, known_servers, running
from benchmarks.streams import Stream

PAGES = Path(__file__).parent.parent / "docs" / "reference"
CONNECTIONS = {
    "http": (1, 64, 256),
    "bulk": (1, 2, 4),
    "mixed": (2,),
    "socket": (1, 64, 256),
    "pipelined": (64,),
    "shared": (1, 4),
}
STEPS = (1, 50)


def scenarios_of(server: Server, options: argparse.Namespace) -> Iterator[Scenario]:
    """Yield a server's rows of the matrix, less what the options leave out."""
    for way in server.ways:
        for connections in CONNECTIONS[way.partition("-")[0]]:
            for steps in STEPS:
                wanted = not options.quick or (steps == 1 and connections in (1, 64))
                scenario = Scenario(server.name, way, connections, steps)
                if wanted and any(word in scenario.title for word in options.only or [""]):
                    yield scenario


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    _check_machine(options)
    os.sched_setaffinity(0, {options.generator_core})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # the servers are stopped on the way out
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        reference = Reference(load_file(weights))
        bench = Bench(options.server_core, options.generator_core, options.seconds, folder, reference)
        started = dict(_start_all(options, stack, weights, bench, left_out))
        plan = [scenario for server in started.values() for scenario in scenarios_of(server.server, options)]
        samples = run_rounds(plan, started, bench, options, left_out)
    _write(samples, options, left_out)


def run_rounds(
    plan: Sequence[Scenario],
    started: Mapping[str, Running],
    bench: Bench,
    options: argparse.Namespace,
    left_out: dict[str, str],
) -> dict[Scenario, list[Sample]]:
    """Visit every scenario once a round, in an order drawn anew for each."""
    order = random.Random(options.seed)
    samples: dict[Scenario, list[Sample]] = {scenario: [] for scenario in plan}
    for index in range(options.rounds):
        for scenario in order.sample(plan, len(plan)):
            if scenario.title in left_out:
                continue
            try:
                sample = measure(scenario, started[scenario.server], bench, f"r{time.time_ns():x}")
            except (BadRun, OSError) as error:
                # One wrong answer spoils the row: its other rounds were measured on a server that errs.
                left_out[scenario.title] = f"{type(error).__name__}: {error}"
                samples[scenario].clear()
                print(f"LEFT OUT {scenario.title}: {error}", file=sys.stderr, flush=True)
                continue
            samples[scenario].append(sample)
            print(f"{index + 1}/{options.rounds} {scenario.title}: {sample.requests:,.0f}/s", flush=True)
    return samples


def _start_all(
    options: argparse.Namespace, stack: ExitStack, weights: Path, bench: Bench, left_out: dict[str, str]
) -> Iterator[tuple[str, Running]]:
    for server in known_servers():
        if not any(scenarios_of(server, options)):
            continue
        if server.missing:
            left_out[server.name] = f"not installed: `{server.missing}`"
            continue
        try:
            started = stack.enter_context(running(server, options.server_core, weights, bench.folder))
            _warm_up(started)
        except (ServerFailed, BadRun, OSError) as error:
            left_out[server.name] = str(error)
            print(f"LEFT OUT {server.name}: {error}", file=sys.stderr, flush=True)
            continue
        yield server.name, started


def _warm_up(started: Running) -> None:
    dialect = started.server.dialect
    stream = Stream("warm-up", 1)
    with Connection(started.port) as connection:
        for index in range(200):
            place = "first" if index == 0 else "last" if index == 199 else "middle"
            dialect.answer(connection.send(dialect.request(stream.session, stream.chunk(index), place)))  # type: ignore[arg-type]


def _write(
    samples: Mapping[Scenario, Sequence[Sample]], options: argparse.Namespace, left_out: Mapping[str, str]
) -> None:
    medians = medians_of(samples)
    conditions = Conditions(
        command=shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine_lines(),
        rounds=options.rounds,
        seconds=options.seconds,
        left_out=left_out,
        disturbance=median(sample.others_share for sample in medians.values()) if medians else 0.0,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    page = markdown(samples, medians, promised_figures(), conditions)
    (options.out / "benchmarks.md").write_text(page)
    draw(medians, options.out / "benchmarks.png")
    print(page)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s, 1 step, 1 and 64 connections")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="rows whose title contains one of these words"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--out", type=Path, default=PAGES, help="folder for benchmarks.md and benchmarks.png")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 1
    return options


def _check_machine(options: argparse.Namespace) -> None:
    if not {options.server_core, options.generator_core} <= os.sched_getaffinity(0):
        sys.exit(
            "two cores are needed, one for the server, one for the load: --server-core, --generator-core"
        )
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install {package}")


if __name__ == "__main__":
    main()
