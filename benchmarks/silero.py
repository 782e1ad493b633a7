"""Silero's voice detector on many sockets: Carryover beside FastAPI with one onnxruntime call a frame.

    pip download --no-deps silero-vad && unzip silero_vad-*.whl
    python -m benchmarks.silero silero_vad/data/silero_vad.onnx [--rounds 5] [--seconds 3] [--live 64,400]

Every one of 64 sockets is a session and has one frame of 512 samples in flight, as binary messages on both
sides. Carryover serves the graph twice: its observations are frames of float32, or single samples that come
as PCM of 16 bits, with events of speech in the answers. The servers take turns on one core, in an order drawn
anew for each round; the load generator has another core. After each run some sessions are continued by one
frame, whose probability must be that of onnxruntime called frame by frame over all that the session was sent.
Prints a line for each run, then the medians of the rounds.

With --live, so many sockets then send a frame every 32 ms, as microphones do, whether the answer to the last
has come or not. An answer is in time if it comes before the next frame is due.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from benchmarks.paced_load import PacedPlan, run_paced
from benchmarks.processes import cpu_seconds
from benchmarks.servers import OURS, QUIET, UVICORN, Running, Server, running
from benchmarks.socket_load import Conversation, Plan, run_plan
from models.arrays import Floats
from models.artifact.files import save
from models.artifact.graph_artifact import Samples, SpeechEvents
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
S16, FULL_SCALE = 4, 32_768
PCM_HEADER = MESSAGE.pack(0, S16, 1, NO_HORIZON, NO_POSITION, NO_EPOCH)
RATE = 16_000
FRAMES_KIND, SAMPLES_KIND = "artifact", "samples"  # folders of Carryover's artifacts


@dataclass(frozen=True)
class Contender:
    """A started server, and what stands before the numbers in its messages.

    pcm : messages have samples of 16 bits, and an observation is one sample
    """

    running: Running
    header: bytes
    pcm: bool = False

    def messages(self, session: int) -> list[bytes]:
        """The frames that a session sends over and over."""
        cycle = frames(session)
        numbers = (cycle * FULL_SCALE).astype("<i2") if self.pcm else cycle
        return [self.header + frame.tobytes() for frame in numbers]


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
        artifact = make_artifact(content, "silero", CHOICES)
        save(artifact, folder / FRAMES_KIND)
        save(replace(artifact, samples=Samples(RATE, SpeechEvents("output"))), folder / SAMPLES_KIND)
        contenders = {
            server.name: Contender(
                stack.enter_context(running(server, options.server_core, folder / "silero.onnx", folder)),
                header,
                pcm=header == PCM_HEADER,
            )
            for server, header in servers(folder)
        }
        runs: dict[str, list[Run]] = {server: [] for server in contenders}
        order = random.Random(0)
        for turn in range(options.rounds):
            for server in order.sample(list(contenders), len(contenders)):
                run = measured(contenders[server], f"r{turn}", detector, options, folder)
                runs[server].append(run)
                print(f"{turn + 1}/{options.rounds} {server}: {run}", flush=True)
        for line in figures(runs) if runs["fastapi"] else ():
            print(line)
        for sockets in options.live:
            for server in ("fastapi", "carryover, samples"):
                print(live(contenders[server], sockets, detector, options, folder), flush=True)


def servers(folder: Path) -> list[tuple[Server, bytes]]:
    """FastAPI and two of Carryover, and the header of their messages."""

    def environment(artifact: str) -> dict[str, str]:
        return {
            "CARRYOVER_PORT": "{port}",
            "CARRYOVER_HOST": HOST,
            "CARRYOVER_MODELS": str(folder / artifact),
        }

    peer = (*UVICORN, *QUIET, "--port", "{port}", "benchmarks.peers.frames:app")
    return [
        (Server("fastapi", peer, SessionInPath()), b""),
        (Server("carryover", OURS, SessionInPath(), environment(FRAMES_KIND)), OWN_HEADER),
        (Server("carryover, samples", OURS, SessionInPath(), environment(SAMPLES_KIND)), PCM_HEADER),
    ]


def figures(runs: dict[str, list[Run]]) -> list[str]:
    """Medians of both, and of the ratios of each round."""
    lines = [
        f"{server}: {median(run.frames for run in of_server):,.0f} frames/s"
        for server, of_server in runs.items()
    ]
    for server in (name for name in runs if name != "fastapi"):
        pairs = list(zip(runs[server], runs["fastapi"], strict=True))
        by_rate = median(ours.frames / theirs.frames for ours, theirs in pairs)
        by_cpu = median(theirs.cpu_us / ours.cpu_us for ours, theirs in pairs)
        lines.append(f"{server} over fastapi: {by_rate:.2f} of frames/s, {by_cpu:.2f} of CPU a frame")
    return lines


def live(contender: Contender, sockets: int, detector: Any, options: argparse.Namespace, folder: Path) -> str:
    """The figures of so many sockets in real time.

    Raises
    ------
    BadRun
        If a session's next probability is not that of onnxruntime.
    """
    sessions = [f"live-{sockets}-{i}" for i in range(sockets)]
    conversations = [
        Conversation(f"/sessions/{name}/stream", contender.messages(i)) for i, name in enumerate(sessions)
    ]
    port, pid = contender.running.port, contender.running.process.pid
    plan = Plan(HOST, port, "binary", conversations, options.live_seconds, must_not=b'"title"')
    before = cpu_seconds(pid)
    outcome = run_paced(PacedPlan(plan, FRAME / RATE), options.generator_core, folder)
    cpu = (cpu_seconds(pid) - before) / options.live_seconds
    if outcome.in_time == outcome.sent:
        for i in range(0, sockets, sockets // CHECKED):
            check(contender, sessions[i], frames(i), detector)
    late = "; the generator was late itself: of no use" if outcome.generator_bound else ""
    return f"{sockets} live sockets, {contender.running.server.name}: {outcome}, {cpu:.0%} of a core{late}"


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
        Conversation(f"/sessions/{name}/stream", contender.messages(i)) for i, name in enumerate(sessions)
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
    if contender.pcm:
        cycle = (cycle * FULL_SCALE).astype("<i2")
    with connect(url, compression=None) as socket:
        position = json.loads(socket.recv())["position"] // (FRAME if contender.pcm else 1)
        socket.send(contender.header + cycle[position % CYCLE].tobytes())
        answer = socket.recv()
    if not isinstance(answer, bytes):
        raise BadRun(f"not the answer asked for: {answer[:300]}")
    got = np.frombuffer(answer, np.float32, 1, len(contender.header))[0]
    if contender.pcm:
        cycle = (cycle / np.float32(FULL_SCALE)).astype(np.float32)
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
    parser.add_argument(
        "--live", type=_counts, default=(64, 400), metavar="N,N", help="sockets in real time; 0: none"
    )
    parser.add_argument("--live-seconds", type=int, default=10, help="length of each run in real time")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    return parser.parse_args(arguments)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(count for count in map(int, text.split(",")) if count)


if __name__ == "__main__":
    main()
