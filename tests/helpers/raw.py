"""HTTP and WebSocket byte by byte, for what no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawConnection:
    """One connection over which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        """Send each part so that the server reads it alone."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            for _ in range(20):  # in which the server, in the same loop, reads it
                await asyncio.sleep(0)

    async def answer(self) -> Answer:
        """The next HTTP answer; its body has a declared length."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

    async def answers(self) -> list[Answer]:
        """Every answer until the server closes its side."""
        found = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                found.append(await self.answer())
        return found

    async def rest(self) -> bytes:
        """All bytes until the server closes its side."""
        async with asyncio.timeout(20):
            return await self.reader.read()


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[RawConnection]:
    """A connection to a server on this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(method: str, path: str, body: bytes = b"", *headers: str, host: str = "localhost") -> bytes:
    """A request with a declared length and these lines of headers more."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(parts: Iterable[bytes]) -> bytes:
    """A body of `transfer-encoding: chunked`."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


def handshake(path: str, *headers: str) -> bytes:
    """The request that opens a socket."""
    lines = [
        f"GET {path} HTTP/1.1", "host: localhost", "connection: Upgrade", "upgrade: websocket",
        "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


def frame(kind: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """A masked frame, as a client sends it (RFC 6455, section 5.2)."""
    mask = os.urandom(4)
    size = len(payload)
    first = (0x80 if fin else 0) | reserved << 4 | kind
    head = struct.pack("!BB", first, 0x80 | size) if size < 126 else struct.pack("!BBH", first, 0xFE, size)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def read_frame(connection: RawConnection) -> tuple[int, bytes]:
    """Kind and payload of the next frame that the server sends."""
    async with asyncio.timeout(20):
        first, size = await connection.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await connection.reader.readexactly(2))
        return first & 0x0F, await connection.reader.readexactly(size)
