"""The server under attack: a child process on a free port, whose memory is watched and limited."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.dialects import HOST
from benchmarks.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = "import sys; sys.path[0] = ''; from app.cli import main; main()"
START_SECONDS = 120.0
WATCH_SECONDS = 0.02
KEY_SECONDS = 1.5
"""After which a server has read a changed key file."""
MIB = 2**20


class NotStarted(RuntimeError):
    """A server that did not start to listen; the message is the end of its log."""


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Parameters
    ----------
    checkout
        The root of a checkout of this project; `app` in it is what runs.
    models
        A folder of artifacts with the models `bench` and `other`.
    memory_mib
        A server that takes more memory than this is killed, to protect the machine.
    """

    checkout: Path
    models: Path
    memory_mib: int = 4096


@dataclass
class Server:
    """A running server."""

    process: asyncio.subprocess.Process
    port: int
    grpc_port: int
    folder: Path
    memory_mib: int
    baseline: int = 0
    peak: int = 0
    too_large: bool = False
    token: str = ""
    _watch: asyncio.Task[None] | None = field(default=None, repr=False)

    def begin(self) -> None:
        """Measure memory from here on."""
        with suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # resets VmHWM
        self.baseline = self.peak = self._memory("VmRSS")

    def sample(self) -> None:
        """Note the highest memory so far, and kill a server that takes too much."""
        self.peak = max(self.peak, self._memory("VmRSS"), self._memory("VmHWM"))
        if self.peak > self.memory_mib * MIB and self.process.returncode is None:
            self.too_large = True
            self.process.kill()

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(WATCH_SECONDS)

    def _memory(self, name: str) -> int:
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        lines = [line for line in status.splitlines() if line.startswith(f"{name}:")]
        return int(lines[0].split()[1]) * 1024 if lines else 0

    async def stop(self, seconds: float) -> float | None:
        """Send SIGTERM, and return the seconds until the process ended; None: it had to be killed."""
        start = time.monotonic()
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return None
        return time.monotonic() - start


@asynccontextmanager
async def serving(
    target: Target, folder: Path, *, program: str = PROGRAM, **settings: Any
) -> AsyncIterator[Server]:
    """Start a server, and kill it at the end if it still runs.

    Parameters
    ----------
    program
        What Python runs; it must start the command line.
    settings
        By the names of the environment variables, in lower case and without their prefix. ``keys=True``
        creates a key.

    Raises
    ------
    NotStarted
        It ended, or did not listen in time.
    """
    port, grpc_port = free_port(), free_port()
    token = await add_key(target, folder, "attacker") if settings.pop("keys", False) else ""
    fixed = {
        "host": HOST,
        "port": port,
        "models": target.models,
        "default_model": "bench",
        "log_level": "error",
    }
    if token:
        fixed["api_keys_file"] = folder / "keys.json"
    environment = _environment(target) | {
        f"CARRYOVER_{name.upper()}": str(value).replace("{grpc_port}", str(grpc_port))
        for name, value in (fixed | settings).items()
    }
    with (folder / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "serve"),
            env=environment, cwd=target.checkout, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    server = Server(process, port, grpc_port, folder, target.memory_mib, token=token)
    try:
        await _await_listening(server, START_SECONDS)
        server.begin()
        server._watch = asyncio.create_task(server.watch())
        yield server
    finally:
        if server._watch is not None:
            server._watch.cancel()
        if process.returncode is None:
            process.kill()
        await process.wait()


def _environment(target: Target) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    return inherited | {"PYTHONPATH": str(target.checkout), "OMP_NUM_THREADS": "1"}


async def carryover(target: Target, *arguments: str) -> tuple[int, str]:
    """Run the command line with these arguments: its exit status, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *arguments), env=_environment(target), cwd=target.checkout,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def add_key(target: Target, folder: Path, name: str, *options: str) -> str:
    """Create a key in the key file of the servers of this folder, and return its token.

    Raises
    ------
    RuntimeError
        No key was made.
    """
    file = str(folder / "keys.json")
    status, output = await carryover(target, "keys", "add", name, "--file", file, *options)
    tokens = [word for word in output.split() if word.startswith("cyo_")]
    if status or not tokens:
        raise RuntimeError(f"keys add: exit status {status}: {output[-300:]}")
    return tokens[0]


async def _await_listening(server: Server, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.process.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, server.port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    log = (server.folder / "server.log").read_text(errors="replace")
    raise NotStarted(f"the server did not start:\n{log[-2000:]}")


@asynccontextmanager
async def bystander(server: Server, port: int) -> AsyncIterator[dict[str, Any]]:
    """Run the bystander, by way of this port; its report is in the dictionary afterwards."""
    program = Path(__file__).with_name("bystander.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), str(port), str(server.process.pid), server.token),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101  (for the type checker)
    await process.stdout.readline()
    report: dict[str, Any] = {}
    try:
        yield report
    finally:
        try:
            output, _ = await asyncio.wait_for(process.communicate(b""), 120)
        except TimeoutError:
            process.kill()
            await process.wait()
            output = b""
    if not output:
        raise RuntimeError("the bystander failed")
    report |= json.loads(output)
