"""The service with different stores, side by side: what `durable` and `shared` have in common."""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.dialects import SessionInPath
from benchmarks.load import Load
from benchmarks.measure import Bench
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.servers import Running, Server, known_servers, running
from benchmarks.streams import Stream
from benchmarks.wrk import run_wrk

CONNECTIONS = 64
CROWD, RESIDENT = 10_000, 2_048
DIALECT = SessionInPath()


def parse_options(description: str | None, out: Path, page: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="for each figure")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=(os.cpu_count() or 2) - 1)
    parser.add_argument("--out", type=Path, default=out, help=f"folder for {page}")
    return parser.parse_args()


@contextmanager
def own_folder(options: argparse.Namespace) -> Iterator[Path]:
    """A folder on the disk to measure; this process stays on the generator's core."""
    os.sched_setaffinity(0, {options.generator_core})
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as name:
        yield Path(name)


@contextmanager
def serving(
    modes: Mapping[str, Mapping[str, str]], options: argparse.Namespace, folder: Path
) -> Iterator[tuple[dict[str, Running], Bench]]:
    """A server for each mode, which is named and has these settings."""
    weights = folder / "weights.safetensors"
    write_seeded_weights(weights)
    write_artifact(weights, folder / "artifact")
    with ExitStack() as stack:
        servers = {
            mode: stack.enter_context(running(_server(mode, settings), options.server_core, weights, folder))
            for mode, settings in modes.items()
        }
        judge = Reference(load_file(weights))
        yield servers, Bench(options.server_core, options.generator_core, options.seconds, folder, judge)


def measure_evicted(started: Running, bench: Bench, round_number: int, crowd: str = "crowd") -> Load:
    """Drive sessions most of which have left the slab: each request brings its own back."""
    names = [f"{crowd}-{number}" for number in range(CROWD)]
    random.Random(round_number).shuffle(names)
    requests = {name: [DIALECT.request(name, Stream(name, 1).chunk(1), "middle")] for name in names}
    pattern = DIALECT.session_pattern
    return run_wrk(
        started.port, requests, pattern, bench.seconds, bench.generator_core, bench.folder, CONNECTIONS
    )


def write_page(lines: list[str], path: Path) -> None:
    """Write and print the figures."""
    page = "\n".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page + "\n")
    print(page)


def _server(mode: str, settings: Mapping[str, str]) -> Server:
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    room = {"CARRYOVER_RESIDENT_SESSIONS": str(RESIDENT)}
    return replace(ours, name=mode, environment={**ours.environment, **room, **settings})
