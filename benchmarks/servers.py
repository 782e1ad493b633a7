"""The measured servers: their commands, and starting and stopping them on a core of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from benchmarks.dialects import HOST, Dialect, Echo, SessionInBody, SessionInPath, Triton
from benchmarks.ports import free_port

START_SECONDS = 90.0
STOP_SECONDS = 10.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
OURS = (sys.executable, "-c", "from app.cli import main; main()", "serve")
UVICORN = (sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--backlog", "2048")
QUIET = ("--no-access-log", "--log-level", "warning")


class ServerFailed(RuntimeError):
    """A server did not start; its log's last lines are in the message."""


@dataclass(frozen=True)
class Server:
    """One competitor.

    Parameters
    ----------
    command
        ``{port}`` in an argument is replaced.
    environment
        Added to the harness' own; ``{port}`` and ``{artifact}`` are replaced.
    ways
        The ways in that it is measured by: ``http`` is one session a request.
    needs
        The module without which it is left out, and the line that installs it.
    """

    name: str
    command: tuple[str, ...]
    dialect: Dialect
    environment: Mapping[str, str] = field(default_factory=dict)
    ways: tuple[str, ...] = ("http",)
    needs: tuple[str, str] | None = None

    @property
    def missing(self) -> str | None:
        """The line that would install what this server needs; None when nothing is missing."""
        if self.needs is None or find_spec(self.needs[0]):
            return None
        return self.needs[1]


def known_servers(ours: tuple[str, ...] = OURS) -> list[Server]:
    """Return ours, hot route off and on, and its peers, the floor first."""
    python = sys.executable
    settings = {
        "CARRYOVER_PORT": "{port}",
        "CARRYOVER_HOST": HOST,
        "CARRYOVER_MODELS": "{artifact}",
    }
    ways = (
        "http",
        "bulk-json",
        "bulk-binary",
        "mixed-json",
        "mixed-binary",
        "socket-json",
        "socket-binary",
        "pipelined-json",
        "pipelined-binary",
        "shared-json",
        "shared-binary",
    )
    path = SessionInPath()
    asgi = (*UVICORN, *QUIET, "--port", "{port}")
    address = ("--address", HOST, "--port", "{port}")
    mosec = ("mosec", "pip install mosec")
    return [
        Server("floor", (python, "-m", "benchmarks.peers.floor", "{port}"), Echo()),
        Server("asgi echo", (*asgi, "benchmarks.peers.echo:app"), Echo()),
        Server("fastapi", (*asgi, "benchmarks.peers.idiomatic:app"), path),
        Server(
            "mosec",
            (python, "-m", "benchmarks.peers.batching_plain", *address),
            SessionInBody(),
            needs=mosec,
        ),
        Server(
            "mosec, tuned",
            (python, "-m", "benchmarks.peers.batching", *address),
            SessionInBody(),
            needs=mosec,
        ),
        Server(
            "triton",
            (python, "-m", "benchmarks.peers.triton.serve", "{port}"),
            Triton(),
            needs=("pytriton", "pip install --no-deps nvidia-pytriton==0.7.0"),
        ),
        Server("carryover, plain route", ours, path, settings | {"CARRYOVER_HOT_ROUTE": "0"}),
        Server("carryover", ours, path, settings | {"CARRYOVER_HOT_ROUTE": "1"}, ways),
    ]


@dataclass(frozen=True)
class Running:
    """A started server."""

    server: Server
    process: subprocess.Popen[bytes]
    port: int


@contextmanager
def running(server: Server, core: int | str, weights: Path, folder: Path) -> Iterator[Running]:
    """Start a server pinned to one core, or a list of them, and stop it; its log goes to a file in `folder`.

    Raises
    ------
    ServerFailed
        When it exits, or does not listen within `START_SECONDS`.
    """
    port = free_port()
    log_path = folder / f"{server.name.replace(' ', '-').replace(',', '')}.log"
    with log_path.open("wb") as log:
        process = _start(server, port, core, weights, log)
        try:
            _await_listening(process, port, log_path)
            yield Running(server, process, port)
        finally:
            _stop(process)


def _start(
    server: Server, port: int, core: int | str, weights: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", str(core), *(part.replace("{port}", str(port)) for part in server.command)]
    artifact = str(weights.parent / "artifact")
    own = {
        name: value.replace("{port}", str(port)).replace("{artifact}", artifact)
        for name, value in server.environment.items()
    }
    environment = os.environ | ONE_THREAD | {"BENCHMARK_WEIGHTS": str(weights)} | own
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _await_listening(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection((HOST, port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.1)
    tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
    raise ServerFailed(f"no listener on port {port} (exit status {process.poll()}); its log ends:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the group is its own: see start_new_session
        process.wait()
