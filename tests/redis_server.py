"""A Redis of the test's own, on a free port: never the one that the machine may run."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pytest

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(SERVER is None, reason="no redis-server here: apt-get install redis-server")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class RedisServer:
    """One server; its files lie in `folder`, so that it may be started again on what it left."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.options = options
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(SERVER), *fixed, "--loglevel", "warning", *self.options], stdout=log, stderr=log
            )
        self.wait()
        return self

    def wait(self, seconds: float = 10.0) -> None:
        """Until it answers."""
        deadline = time.monotonic() + seconds
        while self.ask("PING") != "+PONG":
            if time.monotonic() > deadline:
                raise TimeoutError(f"redis on port {self.port} does not answer: {self.folder / 'log'}")
            time.sleep(0.01)

    def ask(self, *words: str) -> str:
        """The first line of the reply to a command, or the second where the first is a length."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                reply = connection.recv(65_536).decode()
        except OSError as error:
            return f"-{error}"
        return reply.split("\r\n", 1)[1] if reply.startswith("$") else reply.split("\r\n", 1)[0]

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
