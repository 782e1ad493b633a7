"""Connections to the gRPC port: very many idle ones, and keepalive pings."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

from benchmarks.attack.http import connect, observations
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import Server, serving

CONNECTIONS, IDLE, NEW = 400, 600, 100
GREETING_SECONDS = 3.0
PING_SECONDS, PINGS = 1.1, 6
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0]) + bytes(4)
PING_FRAME = bytes([0, 0, 8, 6, 0]) + bytes(4) + bytes(8)
PING, GOAWAY, ACKNOWLEDGED = 6, 7, 1


async def grpc_port(run: Run) -> AsyncIterator[Result]:
    """Idle connections to the gRPC port beyond the server's limit, and a client that pings."""
    settings: dict[str, Any] = {"connections": CONNECTIONS, "grpc_port": "{grpc_port}"}
    async with serving(run.target, run.new_folder(), **settings) as server:
        yield await _idle_connections(run, server)
        yield await _pings(run, server)


async def _idle_connections(run: Run, server: Server) -> Result:
    idle, new = run.scaled(IDLE), run.scaled(NEW)
    async with observed(run, server) as view, AsyncExitStack() as stack:
        admitted = await asyncio.gather(*(_is_admitted(server, stack) for _ in range(idle)))
        outcomes = Counter(await asyncio.gather(*(_new_client(server) for _ in range(new))))
    outcome = (
        f"{sum(admitted)} stay open; of {new} new clients of HTTP, "
        f"{', '.join(f'{count} x {name}' for name, count in outcomes.most_common())}"
    )
    sent = f"{idle} idle connections to the gRPC port; CARRYOVER_CONNECTIONS is {CONNECTIONS}"
    worked = sum(admitted) >= CONNECTIONS or set(outcomes) != {"200"}
    return view.result("idle connections, gRPC port", sent, outcome, worked=worked)


async def _is_admitted(server: Server, stack: AsyncExitStack) -> bool:
    """Whether a connection is greeted with the server's settings, and not closed; it stays open."""
    try:
        connection = await stack.enter_async_context(connect(server.grpc_port))
        async with asyncio.timeout(GREETING_SECONDS):
            return await connection.reader.read(1) != b""
    except OSError:  # a TimeoutError, too
        return False


async def _new_client(server: Server) -> str:
    try:
        async with connect(server.port) as connection:
            await connection.send(observations("new", 0.5))
            status, _ = await connection.answer(10.0)
            return str(status)
    except (OSError, asyncio.IncompleteReadError) as error:
        return type(error).__name__


async def _pings(run: Run, server: Server) -> Result:
    async with observed(run, server) as view:
        answered, closed = 0, False
        with suppress(OSError, asyncio.IncompleteReadError):
            async with connect(server.grpc_port) as connection:
                await connection.send(PREFACE)
                while answered < PINGS and not closed:
                    await connection.send(PING_FRAME)
                    closed = not await _is_acknowledged(connection.reader)
                    answered += not closed
                    await asyncio.sleep(PING_SECONDS)
    outcome = f"{answered} of {PINGS} pings are answered" + (", then the server closes" if closed else "")
    sent = f"a ping every {PING_SECONDS:g} s over an idle connection"
    return view.result("gRPC keepalive", sent, outcome, worked=answered < PINGS)


async def _is_acknowledged(reader: asyncio.StreamReader) -> bool:
    """Read frames until a ping is answered; False if the server says that it closes."""
    async with asyncio.timeout(10.0):
        while True:
            head = await reader.readexactly(9)
            (length,) = struct.unpack(">I", b"\0" + head[:3])
            await reader.readexactly(length)
            if head[3] == GOAWAY:
                return False
            if (head[3], head[4]) == (PING, ACKNOWLEDGED):
                return True
