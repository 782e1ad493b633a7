"""Silero's voice detector on 64 sockets: Carryover beside FastAPI with one onnxruntime call a frame.

    pip download --no-deps silero-vad && unzip silero_vad-*.whl
    python -m benchmarks.silero silero_vad/data/silero_vad.onnx [--rounds 5] [--seconds 3]

Every socket is a session and has one frame of 512 samples in flight, as binary messages on both sides. The
servers take turns on one core, in an order drawn anew for each round; the load generator has another core.
After each run some sessions are continued by one frame, whose probability must be that of onnxruntime called
frame by frame over all that the session was sent. Prints a line for each run, then the medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from websockets.sync.client import connect

from benchmarks.binary_layout import MESSAGE, NO_EPOCH, NO_HORIZON, NO_POSITION
from benchmarks.dialects import HOST, SessionInPath
from benchmarks.load import BadRun
from benchmarks.native_or_graph import one_thread
from benchmarks.processes import cpu_seconds
from benchmarks.servers import OURS, QUIET, UVICORN, Running, Server, running
from benchmarks.socket_load import Conversation, Plan, run_plan
from models.arrays import Floats
from models.artifact.files import save
from models.artifact.graphs.child import make_artifact
from models.artifact.graphs.choices import Choices

SOCKETS, FRAME, CONTEXT = 64, 512, 64
CYCLE = 8  # frames that a session sends over and over
CHECKED = 3  # sessions, after each run
TOLERANCE = 1e-6
CHOICES = Choices(
    states={"state": "stateN"},
    constants={"sr": np.array(16_000)},
    context={"input": CONTEXT},
    shapes={"input": (FRAME,)},
)
OWN_HEADER = MESSAGE.pack(0, 0, FRAME, NO_HORIZON, NO_POSITION, NO_EPOCH)


@dataclass(frozen=True)
class Contender:
    """A started server, and what stands before the numbers in its messages."""

    running: Running
    header: bytes


@dataclass(frozen=True)
class Run:
    """What one run measured."""

    frames: float  # a second
    cpu_us: float  # of the server, a frame
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.frames:,.0f} frames/s, {self.cpu_us:.0f} us of CPU a frame, "
            f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"
        )


def main() -> None:
    """Print every run, and the ratios."""
    options = _options()
    os.sched_setaffinity(0, {options.generator_core})
    content = options.graph.read_bytes()
    detector = one_core_session(content)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "silero.onnx").write_bytes(content)
        save(make_artifact(content, "silero", CHOICES), folder / "artifact")
        contenders = {
            server.name: Contender(
                stack.enter_context(running(server, options.server_core, folder / "silero.onnx", folder)),
                header,
            )
            for server, header in servers()
        }
        runs: dict[str, list[Run]] = {server: [] for server in contenders}
        order = random.Random(0)
        for turn in range(options.rounds):
            for server in order.sample(list(contenders), len(contenders)):
                run = measured(contenders[server], f"r{turn}", detector, options, folder)
                runs[server].append(run)
                print(f"{turn + 1}/{options.rounds} {server}: {run}", flush=True)
    for line in figures(runs):
        print(line)


def servers() -> list[tuple[Server, bytes]]:
    """The two, and the header of their messages."""
    environment = {"CARRYOVER_PORT": "{port}", "CARRYOVER_HOST": HOST, "CARRYOVER_MODELS": "{artifact}"}
    peer = (*UVICORN, *QUIET, "--port", "{port}", "benchmarks.peers.frames:app")
    return [
        (Server("fastapi", peer, SessionInPath()), b""),
        (Server("carryover", OURS, SessionInPath(), environment), OWN_HEADER),
    ]


def figures(runs: dict[str, list[Run]]) -> list[str]:
    """Medians of both, and of the ratios of each round."""
    pairs = list(zip(runs["carryover"], runs["fastapi"], strict=True))
    by_rate = median(ours.frames / theirs.frames for ours, theirs in pairs)
    by_cpu = median(theirs.cpu_us / ours.cpu_us for ours, theirs in pairs)
    lines = [
        f"{server}: {median(run.frames for run in of_server):,.0f} frames/s"
        for server, of_server in runs.items()
    ]
    return [*lines, f"carryover over fastapi: {by_rate:.2f} of frames/s, {by_cpu:.2f} of CPU a frame"]


def measured(
    contender: Contender, prefix: str, detector: Any, options: argparse.Namespace, folder: Path
) -> Run:
    """One run over new sessions.

    Raises
    ------
    BadRun
        If the generator failed, or a session's next probability is not that of onnxruntime.
    """
    sessions = [f"{prefix}-{i}" for i in range(SOCKETS)]
    conversations = [
        Conversation(f"/sessions/{name}/stream", [contender.header + frame.tobytes() for frame in frames(i)])
        for i, name in enumerate(sessions)
    ]
    port, pid = contender.running.port, contender.running.process.pid
    plan = Plan(HOST, port, "binary", conversations, options.seconds, must_not=b'"title"')
    before = cpu_seconds(pid)
    load = run_plan(plan, options.generator_core, folder).load
    cpu = cpu_seconds(pid) - before
    if load.generator_bound:
        raise BadRun("the generator used its whole core")
    for i in range(0, SOCKETS, SOCKETS // CHECKED):
        check(contender, sessions[i], frames(i), detector)
    return Run(load.requests / load.seconds, 1e6 * cpu / load.requests, load.p50_us / 1e3, load.p99_us / 1e3)


def check(contender: Contender, session: str, cycle: Floats, detector: Any) -> None:
    """Continue a session by one frame, and compare its probability.

    Raises
    ------
    BadRun
        If it differs by more than the tolerance.
    """
    url = f"ws://{HOST}:{contender.running.port}/sessions/{session}/stream"
    with connect(url, compression=None) as socket:
        position = json.loads(socket.recv())["position"]
        socket.send(contender.header + cycle[position % CYCLE].tobytes())
        answer = socket.recv()
    if not isinstance(answer, bytes):
        raise BadRun(f"not the answer asked for: {answer[:300]}")
    (got,) = np.frombuffer(answer, np.float32, offset=len(contender.header))
    difference = abs(float(got) - probability(detector, cycle, position + 1))
    if difference > TOLERANCE:
        raise BadRun(f"{session}: the probability of frame {position} is wrong by {difference:.1e}")


def frames(number: int) -> Floats:
    """[CYCLE, FRAME], the frames of a session: noise that swells and fades, another for each."""
    noise = np.random.default_rng(number).standard_normal((CYCLE, FRAME), np.float32)
    return np.asarray(noise * np.linspace(0.01, 0.2, CYCLE, dtype=np.float32)[:, None])


def probability(detector: Any, cycle: Floats, count: int) -> float:
    """The last probability after so many frames of a cycle, each of them a call."""
    context, state = np.zeros((1, CONTEXT), np.float32), np.zeros((2, 1, 128), np.float32)
    answer: Any = None
    for i in range(count):
        frame = cycle[i % CYCLE][None]
        feeds = {"input": np.concatenate([context, frame], axis=1), "state": state, "sr": np.array(16_000)}
        answer, state = detector.run(["output", "stateN"], feeds)
        context = frame[:, -CONTEXT:]
    return float(answer[0, 0])


def one_core_session(content: bytes) -> onnxruntime.InferenceSession:
    """The graph, on the thread that calls it."""
    return onnxruntime.InferenceSession(content, one_thread(), providers=["CPUExecutionProvider"])


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.silero", description=__doc__)
    parser.add_argument("graph", type=Path, help="silero_vad.onnx of the package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="length of each run")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
