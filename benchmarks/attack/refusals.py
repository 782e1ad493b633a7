"""Requests that are refused before their body has arrived: the client must be able to read the refusal.

The client is as simple as most libraries: it sends everything, and only then reads the answer. Like urllib it
asks the server to close the connection afterwards.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

from benchmarks.attack.bodies import chunked
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import Server, serving
from benchmarks.dialects import HOST

TRIES, PART = 10, b"0" * 2**19
LARGE, SMALL = 12 * 2**20, 4 * 2**20
CASES = (("/sessions/x/observations", 413, LARGE), ("/nope", 404, SMALL), ("/health/live", 405, SMALL))


async def refusals(run: Run) -> AsyncIterator[Result]:
    """413, 404 and 405 by a server without keys, 401 by a server with keys; with a length, and chunked."""
    async with serving(run.target, run.new_folder()) as server:
        for path, status, size in CASES:
            yield await _refusal(run, server, path, status, size)
    async with serving(run.target, run.new_folder(), keys=True) as server:
        yield await _refusal(run, server, "/sessions/x/observations", 401, LARGE)


async def _refusal(run: Run, server: Server, path: str, status: int, size: int) -> Result:
    tries = run.scaled(TRIES)
    async with observed(run, server) as view:
        outcomes: Counter[str] = Counter()
        for framing in ("length", "chunked"):
            for _ in range(tries):
                outcomes[await asyncio.to_thread(_post, server.port, path, size, framing)] += 1
    outcome = ", ".join(f"{count} x {name}" for name, count in outcomes.most_common())
    sent = f"{2 * tries} POSTs of {size / 2**20:.0f} MiB, half of them chunked"
    worked = set(outcomes) != {str(status)}
    return view.result(f"early refusal, {status}", sent, outcome, worked=worked, bounded=False)


def _post(port: int, path: str, size: int, framing: str) -> str:
    """Send a whole request, then read: the status, or what went wrong."""
    parts: list[bytes] = [PART] * (size // len(PART))
    length = f"content-length: {size}" if framing == "length" else "transfer-encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "connection: close", length, "", ""]
    head = "\r\n".join(lines)
    with socket.create_connection((HOST, port), timeout=60) as connection:
        try:
            connection.sendall(head.encode())
            for part in parts if framing == "length" else chunked(parts):
                connection.sendall(part)

            answer = connection.recv(65_536)
        except OSError as error:
            return type(error).__name__
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    return answer.split(b" ", 2)[1].decode() if answer else "closed without an answer"
