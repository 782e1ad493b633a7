"""One measurement: open the sessions, drive the load, then make the server prove that it did the work.

A server's own positions must account for every answer that the generator counted, and a sample of sessions is
compared with one pass over everything that they were sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.connection import Connection
from benchmarks.dialects import Answer, Dialect, Place
from benchmarks.load import BadRun, Load
from benchmarks.processes import core_seconds, cpu_seconds, resident_bytes
from benchmarks.reference import TOLERANCE, Reference
from benchmarks.servers import Running
from benchmarks.socket_load import run_plan
from benchmarks.streams import Array, Stream
from benchmarks.ways import CYCLE_INDICES, WAYS, chunks_per_request, first_predictions, in_flight, plan_of
from benchmarks.wrk import run_wrk

SAMPLED_SESSIONS = 4
IDLE_PERIOD_SECONDS = 0.2
IDLE_SHARE = 0.2
IDLE_DEADLINE_SECONDS = 30.0
TAIL_STEPS = 20_000
"""The reference runs over at most this much of a stream's end: by then the network has forgotten the rest."""


@dataclass(frozen=True)
class Scenario:
    """One row of the matrix."""

    server: str
    way: str
    connections: int
    steps: int

    @property
    def title(self) -> str:
        """Return a name for people: server, way in, connections x steps."""
        return f"{self.server}, {self.way}, {self.connections} x {self.steps}"


@dataclass(frozen=True)
class Sample:
    """What one run of a scenario measured: rates a second, times in microseconds, shares of a core's time."""

    requests: float
    session_steps: float
    p50_us: float
    p99_us: float
    cpu_us: float
    resident_mb: float
    generator_share: float
    others_share: float


@dataclass(frozen=True)
class Bench:
    """What stays the same through a run: cores, length, a scratch folder, and the judge's reference."""

    server_core: int
    generator_core: int
    seconds: int
    folder: Path
    reference: Reference


def measure(scenario: Scenario, running: Running, bench: Bench, run: str) -> Sample:
    """Measure a scenario once, with sessions of its own.

    Raises
    ------
    BadRun
        When any answer is an error or wrong, or the server did less than was counted.
    """
    sessions = scenario.connections * WAYS[scenario.way].sessions
    streams = [Stream(f"{run}-{number}", scenario.steps) for number in range(sessions)]
    judge = Judge(running.server.dialect, bench.reference)
    with Connection(running.port) as connection:
        for stream in streams:
            judge.open(stream, connection)
        pid, core = running.process.pid, bench.server_core
        start, before, core_before = time.monotonic(), cpu_seconds(pid), core_seconds(core)
        load = _drive(scenario, running, bench, streams, judge)
        spent = cpu_seconds(pid) - before
        others = (core_seconds(core) - core_before - spent) / (time.monotonic() - start)
        resident = resident_bytes(running.process.pid)
        _await_idle(running.process.pid)
        judge.close(streams, connection)
    under_way = max(sessions, in_flight(scenario.way, scenario.connections))
    judge.account(load.requests * chunks_per_request(scenario.way), under_way)
    return _sample(scenario, load, spent, resident, others)


def _drive(scenario: Scenario, running: Running, bench: Bench, streams: list[Stream], judge: Judge) -> Load:
    if scenario.way != "http":
        plan = plan_of(scenario.way, running.port, streams, bench.seconds)
        outcome = run_plan(plan, bench.generator_core, bench.folder)
        judge.first_answers(first_predictions(scenario.way, outcome.first, streams), streams)
        return outcome.load
    dialect = running.server.dialect
    requests = {
        stream.session: [
            dialect.request(stream.session, stream.chunk(index), "middle") for index in CYCLE_INDICES
        ]
        for stream in streams
    }
    pattern = dialect.session_pattern
    return run_wrk(running.port, requests, pattern, bench.seconds, bench.generator_core, bench.folder)


def _await_idle(pid: int) -> None:
    """Wait until the requests that a generator left in flight are served: none may overlap the judge's."""
    deadline = time.monotonic() + IDLE_DEADLINE_SECONDS
    spent = -1.0
    while (now := cpu_seconds(pid)) - spent > IDLE_SHARE * IDLE_PERIOD_SECONDS:
        if time.monotonic() > deadline:
            raise BadRun("the server is still busy long after the load has ended")
        spent = now
        time.sleep(IDLE_PERIOD_SECONDS)


def _sample(scenario: Scenario, load: Load, cpu: float, resident: int, others: float) -> Sample:
    rate = load.requests / load.seconds
    return Sample(
        requests=rate,
        session_steps=rate * chunks_per_request(scenario.way) * scenario.steps,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        cpu_us=cpu * 1e6 / load.requests,
        resident_mb=resident / 1e6,
        generator_share=load.generator_share,
        others_share=max(0.0, others),
    )


class Judge:
    """Asks each session one question before a run and one after it, and compares with the reference."""

    def __init__(self, dialect: Dialect, reference: Reference) -> None:
        self.dialect = dialect
        self.reference = reference
        self.chunks = 0
        self.tells_positions = True

    def open(self, stream: Stream, connection: Connection) -> None:
        """Send a session its first chunk; every answer is judged."""
        answer = self._ask(stream, connection, "first")
        self._compare(stream, answer, stream.chunk(0))

    def close(self, streams: list[Stream], connection: Connection) -> None:
        """Send each session one chunk more, count what it had consumed, and judge a sample of the answers."""
        every = max(1, len(streams) // SAMPLED_SESSIONS)
        for number, stream in enumerate(streams):
            answer = self._ask(stream, connection, "last")
            before = 0 if answer.position is None else answer.position - stream.steps
            self.tells_positions = answer.position is not None
            self.chunks += before // stream.steps - 1
            if number % every == 0:
                self._compare(stream, answer, np.concatenate((stream.consumed(before), stream.chunk(0))))

    def first_answers(self, answers: dict[str, Array], streams: list[Stream]) -> None:
        """Compare what was answered to each session's first chunk of the run, in the run's own form."""
        if len(answers) != len(streams):
            raise BadRun(f"{len(answers)} of {len(streams)} sessions were answered")
        for stream in streams[:: max(1, len(streams) // SAMPLED_SESSIONS)]:
            answer = Answer(answers[stream.session], 2 * stream.steps)
            self._compare(stream, answer, stream.consumed(2 * stream.steps))

    def account(self, counted: int, in_flight: int) -> None:
        """Check that the server consumed every chunk counted by the generator, and no more than were sent."""
        if self.tells_positions and not counted <= self.chunks <= counted + in_flight:
            raise BadRun(f"{counted} chunks were counted, the server's positions tell of {self.chunks}")

    def _ask(self, stream: Stream, connection: Connection, place: Place) -> Answer:
        request = self.dialect.request(stream.session, stream.chunk(0), place)
        return self.dialect.answer(connection.send(request))

    def _compare(self, stream: Stream, answer: Answer, sent: Array) -> None:
        expected = sent if answer.position is None else self.reference.predictions(sent[-TAIL_STEPS:])
        expected = expected[-stream.steps :]
        if answer.predictions.shape != expected.shape:
            raise BadRun(f"{answer.predictions.shape} predictions for {expected.shape} observations")
        error = float(np.max(np.abs(answer.predictions - expected)))
        if not error <= TOLERANCE:
            raise BadRun(f"session {stream.session} is off by {error:.2g} at position {answer.position}")
