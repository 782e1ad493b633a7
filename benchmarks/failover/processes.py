"""The processes of a deployment, on loopback and free ports: stores, replicas, a balancer."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.ports import free_port

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
HAPROXY = shutil.which("haproxy")

SERVE = "import sys; from app.cli import main; sys.exit(main())"

HAPROXY_CONFIG = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 500ms
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    option redispatch
    retries 2
    retry-on conn-failure
    timeout check 1s
    default-server inter 250ms fastinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
frontend carryover
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance hash path,field(3,/)
    hash-type consistent
    option httpchk
    http-check send meth GET uri /health/balancer
    http-check expect status 200
    http-check disable-on-404
{servers}
"""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition.

    Raises
    ------
    TimeoutError : it did not come true
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class RedisServer:
    """One server; its files lie in `folder`, so that it may be started again on what it left."""

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, first: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.first = first  # ahead of all options: a configuration file, and that it is a Sentinel
        self.options = options
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        if not self.first:
            fixed += ["--save", ""]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(SERVER), *self.first, *fixed, "--loglevel", "warning", *self.options],
                stdout=log,
                stderr=log,
            )
        self.wait()
        return self

    def wait(self, seconds: float = 10.0) -> None:
        """Until it answers."""
        wait_until(lambda: self.ask("PING") == "+PONG", f"redis on port {self.port} answers", seconds)

    def ask(self, *words: str) -> str:
        """The first line of the reply to a command, or all behind it where that is a length."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                reply = connection.recv(65_536).decode()
        except OSError as error:
            return f"-{error}"
        return reply.split("\r\n", 1)[1] if reply[:1] in ("$", "*") else reply.split("\r\n", 1)[0]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            if how in (signal.SIGKILL, signal.SIGTERM):
                self.process.wait(10)
                self.process = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Replica:
    """One server of the service.

    Parameters
    ----------
    environment : settings beside its port
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], port: int | None = None) -> None:
        self.folder = folder
        self.environment = environment
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Replica:
        """Start it; `wait` tells when it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, "serve", "--port", str(self.port)],
                env=inherited | dict(self.environment),
                stdout=log,
                stderr=log,
            )
        return self

    def get(self, path: str, seconds: float = 1.0) -> tuple[int, str]:
        """Status and body of a GET; (0, why) when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether it wants requests."""
        return self.get("/health/ready")[0] == 200

    def wait(self, seconds: float = 60.0) -> None:
        """Until it is ready."""
        wait_until(self.ready, f"the replica on port {self.port} is ready", seconds)

    def counter(self, name: str) -> int:
        """A counter of its metrics; 0 when the replica does not answer."""
        lines = self.get("/metrics")[1].splitlines()
        found = [line.rpartition(" ")[2] for line in lines if line.startswith(f"carryover_{name}_total")]
        return int(float(found[0])) if found else 0

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None:
            self.process.send_signal(how)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it has."""
        if self.process is not None:
            self.send(how)
            self.process.wait(60)
            self.process = None


class Balancer:
    """HAProxy with consistent hashing over the session in the path, and health checks."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self.ports = ports
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Balancer:
        """Start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        servers = [f"    server r{i} 127.0.0.1:{port} check" for i, port in enumerate(self.ports)]
        config = self.folder / "haproxy.cfg"
        config.write_text(HAPROXY_CONFIG.format(port=self.port, servers="\n".join(servers)))
        with (self.folder / "haproxy.log").open("ab") as log:
            self.process = subprocess.Popen([str(HAPROXY), "-db", "-f", str(config)], stdout=log, stderr=log)
        return self

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None
