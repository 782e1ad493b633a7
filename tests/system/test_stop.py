"""A stop is bounded by CARRYOVER_STOP_SECONDS, whatever clients do."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from app.config import Settings
from app.server import FILES_BESIDE_CONNECTIONS, fit_connections
from app.shutdown import LAST_SECONDS
from benchmarks.ports import free_port
from tests.system.test_serve import answered, posted, serving, wait_until_accepted

STOP_SECONDS = 1.0
SLACK_SECONDS = 40.0  # the machine may be busy
FORECASTS = 300
CLIENTS = 1000


def stop(process) -> tuple[int, float]:
    """Send SIGTERM, and return the exit status and the seconds until the end."""
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=200)
    return status, time.monotonic() - start


@contextlib.contextmanager
def idle_stream(port: int) -> Iterator[None]:
    """A gRPC stream on which one request was answered, and then nothing is sent."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        ready(b"", wait_for_ready=True, timeout=30)
        release = threading.Event()
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            iter(lambda: release.wait(60) or b"", None)
        )
        yield
        release.set()
        call.cancel()


def test_an_idle_grpc_stream_does_not_delay_the_stop(zoo_folder):
    port = free_port()
    settings = {"CARRYOVER_GRPC_PORT": str(port), "CARRYOVER_STOP_SECONDS": "120"}
    with serving(zoo_folder, **settings) as (process, _), idle_stream(port):
        status, seconds = stop(process)
    assert status == 0
    assert seconds < SLACK_SECONDS


def test_a_half_sent_request_delays_the_stop_no_longer_than_set(zoo_folder):
    settings = {"CARRYOVER_STOP_SECONDS": str(STOP_SECONDS), "CARRYOVER_REQUEST_SECONDS": "300"}
    with (
        serving(zoo_folder, **settings) as (process, port),
        socket.create_connection(("127.0.0.1", port)) as line,
    ):
        line.sendall(b"POST /sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        wait_until_accepted(port)
        _, seconds = stop(process)
    assert seconds < STOP_SECONDS + LAST_SECONDS + SLACK_SECONDS


def test_queued_forecasts_delay_the_stop_no_longer_than_set(zoo_folder):
    with serving(zoo_folder, CARRYOVER_STOP_SECONDS=str(STOP_SECONDS)) as (process, port):
        with posted(port, "a", {"observations": [0.5]}) as line:
            assert answered(line)[0] == 200
        request = b"GET /sessions/a/forecast?steps=10000 HTTP/1.1\r\nhost: localhost\r\n\r\n"
        lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(FORECASTS)]
        for line in lines:
            line.sendall(request)
        wait_until_accepted(port)
        _, seconds = stop(process)
        for line in lines:
            line.close()
    assert seconds < STOP_SECONDS + LAST_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("hot", [True, False], ids=["chunks", "forecasts"])
def test_at_a_stop_a_thousand_clients_are_answered_or_closed_cleanly(zoo_folder, hot):
    """Each has a long job of a session of its own in flight. A reset connection would lose its answer."""
    make = _chunk if hot else _forecast
    with open_files(CLIENTS + 200), serving(zoo_folder, CARRYOVER_STOP_SECONDS="5") as (process, port):
        names = [f"s{i}" for i in range(CLIENTS)]
        with posted_bulk(port, names) as line:
            assert answered(line)[0] == 200
        lines = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in names]
        for line, name in zip(lines, names, strict=True):
            line.sendall(make(name))
        wait_until_accepted(port)
        status, seconds = stop(process)
        answers = [_everything(line) for line in lines]
    assert status == 0
    assert seconds < 5 + LAST_SECONDS + SLACK_SECONDS
    statuses = Counter(answer[9:12] for answer in answers)
    assert set(statuses) <= {b"200", b"503", b""}, statuses
    for answer in filter(None, answers):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head.lower(), answer[:300]


def _chunk(session: str) -> bytes:
    body = b'{"observations":[0.5],"at":1,"horizon":10000}'
    head = f"POST /sessions/{session}/observations HTTP/1.1\r\nhost: localhost\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _forecast(session: str) -> bytes:
    return f"GET /sessions/{session}/forecast?steps=10000 HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def _everything(line: socket.socket) -> bytes:
    """All that the server sent until it closed; `reset` where the connection was reset."""
    parts = []
    with line:
        try:
            while part := line.recv(65_536):
                parts.append(part)
        except ConnectionResetError:
            return b"HTTP/1.1 reset"
    return b"".join(parts)


def posted_bulk(port: int, names: list[str]) -> socket.socket:
    """A connection on which a first chunk of each session was sent."""
    body = json.dumps({"sessions": names, "observations": [0.5] * len(names)}).encode()
    line = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /observations HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    line.sendall(head.encode() + body)
    return line


@contextlib.contextmanager
def open_files(count: int) -> Iterator[None]:
    """Allow this process so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"the process may have only {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("open_files", "connections"),
    [
        (None, 20_000),
        (10**6, 20_000),
        (1024, 1024 - FILES_BESIDE_CONNECTIONS),
        (20_000, 20_000 - FILES_BESIDE_CONNECTIONS),
    ],
)
def test_connections_leave_open_files_for_the_rest_of_the_server(open_files, connections, caplog):
    with caplog.at_level(logging.WARNING):
        assert fit_connections(Settings(), open_files).connections == connections
        assert not caplog.text  # nobody has asked for so many
        assert fit_connections(Settings(connections=20_000), open_files).connections == connections
    warned = connections != 20_000
    for part in ("ulimit -n", "Raise the limit, or lower CARRYOVER_CONNECTIONS", f"at most {connections} "):
        assert (part in caplog.text) == warned
