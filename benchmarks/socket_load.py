"""A closed-loop generator for what wrk cannot send: WebSocket messages, and bulk requests of many sessions.

It runs in a process of its own, ``python -m benchmarks.socket_load PLAN OUTCOME``, on the generator's core.
Messages are made before the clock starts, and sockets are read straight from epoll: a client library would be
the bottleneck.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from benchmarks.frames import BadFrame, http_answers, masked_frame, upgrade_request, websocket_answers
from benchmarks.load import BadRun, Load, percentile

RECEIVE_BYTES = 1 << 18
T = TypeVar("T")
P = TypeVar("P")


class Conversation(msgspec.Struct, frozen=True):
    """What one connection sends, in a cycle; for a WebSocket the messages are payloads, `path` its route."""

    path: str
    messages: list[bytes]


class Plan(msgspec.Struct, frozen=True):
    """A run.

    Parameters
    ----------
    window
        Messages in flight on each connection.
    must, must_not
        Bytes that every answer has to contain, and may not contain, to count as one.
    """

    host: str
    port: int
    protocol: Literal["http", "text", "binary"]
    conversations: list[Conversation]
    seconds: float
    window: int = 1
    must: bytes = b""
    must_not: bytes = b"\x00never\x00"


class Outcome(msgspec.Struct, frozen=True):
    """What a run found, and the first answers on each connection, a window full of them, to be judged."""

    load: Load
    first: list[list[bytes]]


def run_plan(plan: Plan, core: int, folder: Path) -> Outcome:
    """Run the generator in its own process.

    Raises
    ------
    BadRun
        When it failed, or when any answer was not what the plan demands.
    """
    return run_module("benchmarks.socket_load", plan, Outcome, core, folder, plan.seconds)


def run_module(
    module: str, plan: msgspec.Struct, outcome: type[T], core: int, folder: Path, seconds: float
) -> T:
    """Run a generator's module in a process on this core, for about so long, and read its outcome.

    Raises
    ------
    BadRun
        When it failed.
    """
    path, answers = folder / "plan.msgpack", folder / "outcome.msgpack"
    path.write_bytes(msgspec.msgpack.encode(plan))
    command = ["taskset", "-c", str(core), sys.executable, "-m", module, str(path), str(answers)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if finished.returncode:
        raise BadRun((finished.stderr.strip().splitlines() or ["the generator failed"])[-1])
    return msgspec.msgpack.decode(answers.read_bytes(), type=outcome)


def answer_plan(plan_type: type[P], generate: Callable[[P], msgspec.Struct]) -> None:
    """What `run_module` starts: run the plan of the first file, and write its outcome to the second."""
    plan = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=plan_type)
    try:
        outcome = generate(plan)
    except (BadRun, BadFrame, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    Path(sys.argv[2]).write_bytes(msgspec.msgpack.encode(outcome))


class Caller:
    """One connection of the closed loop."""

    def __init__(self, plan: Plan, conversation: Conversation) -> None:
        self.plan = plan
        websocket = plan.protocol != "http"
        self.messages = [
            masked_frame(message, plan.protocol == "text") if websocket else message
            for message in conversation.messages
        ]
        self.split = websocket_answers if websocket else http_answers
        self.socket = socket.create_connection((plan.host, plan.port), timeout=30.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.index = 0
        self.rest = _upgrade(self.socket, conversation.path) if websocket else b""
        self.first: list[bytes] = []
        self.sent: deque[float] = deque()

    def send(self, count: int, now: float) -> None:
        """Send the next messages of the cycle, in one write."""
        batch = []
        for _ in range(count):
            batch.append(self.messages[self.index])
            self.index = (self.index + 1) % len(self.messages)
            self.sent.append(now)
        self.socket.sendall(b"".join(batch) if count > 1 else batch[0])

    def receive(self, latencies: list[float]) -> list[bytes]:
        """Take the answers that have arrived, and note their latencies."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise BadRun("the server closed a connection in mid-run")
        answers, self.rest = self.split(self.rest + data if self.rest else data)
        now = time.perf_counter()
        latencies.extend(now - self.sent.popleft() for _ in answers)
        return answers

    def judge(self, answers: list[bytes]) -> None:
        """Look at every answer, and keep the first."""
        plan = self.plan
        if len(self.first) < plan.window:
            self.first += answers[: plan.window - len(self.first)]
        for answer in answers:
            if plan.must not in answer or plan.must_not in answer:
                raise BadRun(f"not the answer asked for: {answer[:300]!r}")


def generate(plan: Plan) -> Outcome:
    """Run the closed loop in this process."""
    callers = [Caller(plan, conversation) for conversation in plan.conversations]
    poller = select.epoll()
    by_descriptor = {caller.socket.fileno(): caller for caller in callers}
    latencies: list[float] = []
    busy = time.process_time()
    start = time.perf_counter()
    for descriptor, caller in by_descriptor.items():
        poller.register(descriptor, select.EPOLLIN)
        caller.send(plan.window, start)
    deadline = start + plan.seconds
    while (now := time.perf_counter()) < deadline:
        for descriptor, _ in poller.poll(deadline - now):
            caller = by_descriptor[descriptor]
            answers = caller.receive(latencies)
            if answers:
                caller.send(len(answers), time.perf_counter())
                caller.judge(answers)  # while the server has something to do again
    seconds = time.perf_counter() - start
    share = (time.process_time() - busy) / seconds
    p50, p99 = (percentile(latencies, part) * 1e6 for part in (0.50, 0.99))
    return Outcome(Load(len(latencies), seconds, p50, p99, share), [caller.first for caller in callers])


def _upgrade(connection: socket.socket, path: str) -> bytes:
    """Open a WebSocket, wait for the service's greeting, which is no answer; return what came behind it."""
    connection.sendall(upgrade_request(path))
    head, rest = b"", b""
    while not head.endswith(b"\r\n\r\n"):
        head += _more(connection, 1)
    if not head.startswith(b"HTTP/1.1 101"):
        raise BadRun(f"no WebSocket at {path}: {head!r}")
    greetings: list[bytes] = []
    while not greetings:
        greetings, rest = websocket_answers(rest + _more(connection, 4096))
    return rest


def _more(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count)
    if not data:
        raise BadRun("the server closed the connection at the handshake")
    return data


if __name__ == "__main__":
    answer_plan(Plan, generate)
