"""HTTP/1.1 and WebSocket by hand over asyncio streams, so that an attacker can send anything."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from benchmarks.dialects import HOST

TEXT, CONTINUATION, CLOSE, PING = 1, 0, 8, 9
ANSWER_SECONDS = 110.0


class Connection:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until the operating system has taken them."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, seconds: float = ANSWER_SECONDS) -> tuple[int, bytes]:
        """Read one answer: its status and its body.

        Raises
        ------
        OSError, asyncio.IncompleteReadError, TimeoutError
            There is none.
        """
        async with asyncio.timeout(seconds):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, headers = int(head.split(b" ", 2)[1]), head.lower()
            if b"transfer-encoding: chunked" in headers:
                return status, await self._chunks()
            lengths = [line for line in headers.split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].partition(b":")[2]) if lengths else 0
            return status, await self.reader.readexactly(length)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        token: str = "",
        kind: str = "application/json",
    ) -> tuple[int, bytes]:
        """Send a request and read its answer."""
        await self.send(request(method, path, body, token, kind))
        return await self.answer()

    async def rest(self, seconds: float = ANSWER_SECONDS) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(seconds):
            return await self.reader.read()

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(await self.reader.readline(), 16)
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            if not size:
                return body


class WebSocket:
    """A WebSocket that sends any frames (RFC 6455)."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def send_frames(self, frames: list[bytes]) -> None:
        """Send frames in one piece."""
        await self.connection.send(b"".join(frames))

    async def receive(self, seconds: float = ANSWER_SECONDS) -> tuple[int, bytes]:
        """Read one frame: its opcode and its payload."""
        reader = self.connection.reader
        async with asyncio.timeout(seconds):
            first, length = await reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await reader.readexactly(2), "big")
            elif length == 127:
                length = int.from_bytes(await reader.readexactly(8), "big")
            return first & 15, await reader.readexactly(length)


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    """Open a connection to 127.0.0.1."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=2**20)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def websocket(port: int, path: str, token: str = "") -> AsyncIterator[WebSocket]:
    """Open a WebSocket, and read the server's first message."""
    async with connect(port) as connection:
        lines = [
            f"GET {path} HTTP/1.1", "host: localhost", "upgrade: websocket", "connection: Upgrade",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13",
            *([f"authorization: Bearer {token}"] if token else []),
        ]  # fmt: skip
        await connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await connection.reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            raise ConnectionError(f"no WebSocket: {head[:100]!r}")
        socket = WebSocket(connection)
        await socket.receive()
        yield socket


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """A masked frame of at most 125 bytes."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([opcode | 128 * final, 128 | len(payload)]) + mask + masked


def request(
    method: str,
    path: str,
    body: bytes | None = None,
    token: str = "",
    kind: str = "application/json",
    headers: Sequence[str] = ("host: localhost",),
) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", *headers]
    if token:
        lines.append(f"authorization: Bearer {token}")
    if body is not None:
        lines += [f"content-type: {kind}", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


def observations(session: str, *values: float) -> bytes:
    """A request with one chunk."""
    return request("POST", f"/sessions/{session}/observations", json.dumps({"observations": values}).encode())


def parse(body: bytes) -> Any:
    """An answer's JSON; None if it is something else."""
    try:
        return json.loads(body)
    except ValueError:
        return None
