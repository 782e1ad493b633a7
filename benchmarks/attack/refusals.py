"""Requests that are refused before their body has arrived: the client must be able to read the refusal.

The client is as simple as most libraries: it sends everything, and only then reads the answer. Like urllib it
asks the server to close the connection afterwards.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from benchmarks.attack.bodies import chunked
from benchmarks.attack.http import connect
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import KEY_SECONDS, Server, add_key, serving
from benchmarks.dialects import HOST

TRIES, PART = 10, b"0" * 2**19
LARGE, SMALL = 12 * 2**20, 4 * 2**20
CHUNKS = "/sessions/x/observations"
SLOW_TRIES, SLOW_PAUSE_SECONDS, REQUEST_SECONDS = 2, 0.25, 1
CONNECTIONS = 6
LONG_HEADER = "x-long: " + "a" * 70_000


@dataclass(frozen=True)
class Upload:
    """A POST whose body is sent whatever the server answers meanwhile.

    Parameters
    ----------
    status
        The answer that the client must be able to read.
    pause_seconds
        Before each half MiB of the body.
    """

    path: str
    status: int
    size: int
    headers: tuple[str, ...] = ()
    tries: int = TRIES
    pause_seconds: float = 0.0


async def refusals(run: Run) -> AsyncIterator[Result]:
    """413, 404, 405, 431, 408, 503, 401 and 403, each with a length and chunked."""
    async with serving(run.target, run.new_folder()) as server:
        yield await _refusal(run, server, Upload(CHUNKS, 413, LARGE))
        yield await _refusal(run, server, Upload("/nope", 404, SMALL))
        yield await _refusal(run, server, Upload("/health/live", 405, SMALL))
        yield await _refusal(run, server, Upload(CHUNKS, 431, LARGE, (LONG_HEADER,)))
    async with serving(run.target, run.new_folder(), request_seconds=REQUEST_SECONDS) as server:
        slow = Upload(CHUNKS, 408, SMALL, tries=SLOW_TRIES, pause_seconds=SLOW_PAUSE_SECONDS)
        yield await _refusal(run, server, slow)
    async with (
        serving(run.target, run.new_folder(), connections=CONNECTIONS) as server,
        AsyncExitStack() as stack,
    ):
        for _ in range(CONNECTIONS - 1):  # the last one is for the bystander
            held = await stack.enter_async_context(connect(server.port))
            await held.request("GET", "/health/live")
        yield await _refusal(run, server, Upload(CHUNKS, 503, LARGE))
    folder = run.new_folder()
    async with serving(run.target, folder, keys=True) as server:
        yield await _refusal(run, server, Upload(CHUNKS, 401, LARGE))
        token = await add_key(run.target, folder, "monitor", "--role", "monitor")
        await asyncio.sleep(KEY_SECONDS)
        monitor = Upload("/sessions", 403, LARGE, (f"authorization: Bearer {token}",))
        yield await _refusal(run, server, monitor)


async def _refusal(run: Run, server: Server, upload: Upload) -> Result:
    tries = run.scaled(upload.tries)
    async with observed(run, server) as view:
        outcomes: Counter[str] = Counter()
        for framing in ("length", "chunked"):
            for _ in range(tries):
                outcomes[await asyncio.to_thread(_post, server.port, upload, framing)] += 1
    outcome = ", ".join(f"{count} x {name}" for name, count in outcomes.most_common())
    sent = f"{2 * tries} POSTs of {upload.size / 2**20:.0f} MiB, half of them chunked"
    worked = set(outcomes) != {str(upload.status)}
    return view.result(f"early refusal, {upload.status}", sent, outcome, worked=worked, bounded=False)


def _post(port: int, upload: Upload, framing: str) -> str:
    """Send a whole request, then read: the status, or what went wrong."""
    parts: list[bytes] = [PART] * (upload.size // len(PART))
    length = f"content-length: {upload.size}" if framing == "length" else "transfer-encoding: chunked"
    lines = [f"POST {upload.path} HTTP/1.1", "host: localhost", "connection: close", *upload.headers, length]
    head = "\r\n".join([*lines, "", ""])
    with socket.create_connection((HOST, port), timeout=60) as connection:
        try:
            connection.sendall(head.encode())
            for part in parts if framing == "length" else chunked(parts):
                time.sleep(upload.pause_seconds)
                connection.sendall(part)

            answer = connection.recv(65_536)
        except OSError as error:
            return type(error).__name__
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    return answer.split(b" ", 2)[1].decode() if answer else "closed without an answer"
