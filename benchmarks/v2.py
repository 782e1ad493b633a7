"""Compare Triton's sequence batcher with Carryover, on the same network and with the same clients.

``python -m benchmarks.v2`` (``--help`` lists the options). First a program that uses `tritonclient` streams
many interleaved sequences through both servers, in chunks of random sizes, as JSON and as bytes, and compares
every number of the answers. Then wrk sends the same requests to each of them, alternately, on one core each.
It needs what `benchmarks.run` needs, ``pip install tritonclient[http]``, and what `benchmarks.peers.triton`
describes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import tritonclient.http as triton
from safetensors.torch import load_file

from benchmarks.dialects import HOST, OpenInference
from benchmarks.measure import Bench, Sample, Scenario, measure
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.servers import OURS, Running, Server, known_servers, running
from models.arrays import Floats

TOLERANCE = 1e-5
WANTED = 2.0
"""Requests a second that ours must take for each of Triton's."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    os.sched_setaffinity(0, {options.generator_core})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "artifact")
        both = [
            stack.enter_context(running(server, options.server_core, weights, folder))
            for server in _servers()
        ]
        for started in both:
            _await_ready(started)
        agreed = compare(both, options)
        bench = Bench(
            options.server_core,
            options.generator_core,
            options.seconds,
            folder,
            Reference(load_file(weights)),
        )
        quick = race(both, bench, options)
    return 0 if agreed and quick else 1


def compare(both: Sequence[Running], options: argparse.Namespace) -> bool:
    """Stream the same sequences through both; print how far apart their answers are."""
    rng = np.random.default_rng(options.seed)
    series = rng.normal(size=(options.sequences, options.steps)).astype(np.float32)
    streams = {
        started.server.name: [stream(started, series, options.seed, binary) for binary in (False, True)]
        for started in both
    }
    ours, theirs = streams.values()
    apart = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    count = f"{options.sequences} sequences of {options.steps} observations, JSON and binary"
    print(f"{count}: largest difference {apart:.1e} (allowed: {TOLERANCE:.0e})", flush=True)
    return apart <= TOLERANCE


def stream(started: Running, series: Floats, seed: int, binary: bool) -> Floats:
    """Send every row of `series`, [sequences, steps], as a sequence, interleaved; predictions alike."""
    client = triton.InferenceServerClient(f"{HOST}:{started.port}", network_timeout=60.0)
    model = started.server.dialect.model  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    at = np.zeros(len(series), np.int64)
    predictions = np.empty_like(series)
    first = int(time.time_ns())
    while (open_ := np.flatnonzero(at < series.shape[1])).size:
        which = int(rng.choice(open_))
        begin = int(at[which])
        end = min(begin + int(rng.integers(1, 16)), series.shape[1])
        chunk = series[which, begin:end].reshape(1, -1, 1)
        tensor = triton.InferInput("observations", chunk.shape, "FP32")
        tensor.set_data_from_numpy(chunk, binary_data=binary)
        requested = triton.InferRequestedOutput("predictions", binary_data=binary)
        ends = {"sequence_start": begin == 0, "sequence_end": end == series.shape[1]}
        answer = client.infer(model, [tensor], outputs=[requested], sequence_id=first + which, **ends)
        predictions[which, begin:end] = answer.as_numpy("predictions").reshape(-1)
        at[which] = end
    client.close()
    return predictions


def race(both: Sequence[Running], bench: Bench, options: argparse.Namespace) -> bool:
    """Requests a second of both, in turns; print the medians side by side."""
    quick = True
    for steps in (1, 50):
        samples: dict[str, list[Sample]] = {started.server.name: [] for started in both}
        for _ in range(options.rounds):
            for started in both:
                scenario = Scenario(started.server.name, "http", options.connections, steps)
                samples[started.server.name].append(measure(scenario, started, bench, f"r{time.time_ns():x}"))
        rates = {name: median(sample.requests for sample in each) for name, each in samples.items()}
        ours, theirs = rates.values()
        for name, each in samples.items():
            cpu, p99 = median(started.cpu_us for started in each), median(started.p99_us for started in each)
            rate = f"{rates[name]:>8,.0f}/s, {cpu:5.0f} us of CPU a request, p99 {p99 / 1000:.1f} ms"
            print(f"{steps:>3} steps, {options.connections} connections, {name:>8}: {rate}")
        print(f"{steps:>3} steps: ours takes {ours / theirs:.2f} x Triton's requests", flush=True)
        quick &= steps > 1 or ours >= WANTED * theirs
    return quick


def _servers() -> tuple[Server, Server]:
    settings = {"CARRYOVER_PORT": "{port}", "CARRYOVER_HOST": HOST, "CARRYOVER_MODELS": "{artifact}"}
    theirs = next(server for server in known_servers() if server.name == "triton")
    if theirs.missing:
        sys.exit(theirs.missing)
    return Server("carryover", OURS, OpenInference(), settings), theirs


def _await_ready(started: Running) -> None:
    client = triton.InferenceServerClient(f"{HOST}:{started.port}")
    model = started.server.dialect.model  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    while not client.is_model_ready(model):
        if time.monotonic() > deadline:
            sys.exit(f"{started.server.name} did not become ready")
        time.sleep(0.2)
    client.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200, help="of each sequence (200)")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement (5)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
