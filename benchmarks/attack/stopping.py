"""Very many forecasts whose clients leave, and a server that is stopped while they wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

from benchmarks.attack.http import Connection, connect, observations, request
from benchmarks.attack.result import STOP_MS, Result, Run, observed, unobserved
from benchmarks.attack.server import Server, serving

FORECASTS, STEPS = 1000, 10_000
HOLD_SECONDS, STOP_SECONDS, RECOVERY_SECONDS = 5.0, 60.0, 60.0
ALLOWED_RECOVERY_SECONDS, ALLOWED_STOP_SECONDS = 2.0, 20.0
"""After the clients left, and after SIGTERM."""


async def stopping(run: Run) -> AsyncIterator[Result]:
    """Forecasts of clients that leave, SIGTERM among forecasts, SIGTERM with a request that never ends."""
    yield await _abandoned(run)
    yield await _terminated(run)
    yield await _half_sent(run)


async def _abandoned(run: Run) -> Result:
    async with serving(run.target, run.new_folder()) as server, observed(run, server) as view:
        async with AsyncExitStack() as stack:
            count = await _queue_forecasts(server, run.scaled(FORECASTS), stack)
            await asyncio.sleep(HOLD_SECONDS)
        recovery = await _recovery_seconds(server)
    outcome = f"{recovery:.1f} s after the clients left, chunks are answered at once again"
    if recovery >= RECOVERY_SECONDS:
        outcome = f"chunks still wait {RECOVERY_SECONDS:.0f} s after the clients left"
    sent = f"{count} forecasts of {STEPS:,} steps; their clients leave after {HOLD_SECONDS:.0f} s"
    return view.result("queued forecasts", sent, outcome, worked=recovery > ALLOWED_RECOVERY_SECONDS)


async def _terminated(run: Run) -> Result:
    async with serving(run.target, run.new_folder()) as server:
        server.begin()
        async with AsyncExitStack() as stack:
            count = await _queue_forecasts(server, run.scaled(FORECASTS), stack)
            await asyncio.sleep(1.0)  # the server has read them
            seconds = await server.stop(STOP_SECONDS)
    return _stop_result("SIGTERM among forecasts", f"{count} forecasts of {STEPS:,} steps", server, seconds)


async def _half_sent(run: Run) -> Result:
    async with serving(run.target, run.new_folder()) as server, connect(server.port) as connection:
        server.begin()
        await connection.send(request("POST", "/sessions", b"{" + b" " * 99)[:-98])
        await asyncio.sleep(1.0)  # the server has read the head
        seconds = await server.stop(STOP_SECONDS)
    return _stop_result("SIGTERM during a request", "half a request", server, seconds)


def _stop_result(attack: str, sent: str, server: Server, seconds: float | None) -> Result:
    outcome = (
        f"stopped after {seconds:.1f} s" if seconds is not None else f"killed after {STOP_SECONDS:.0f} s"
    )
    worked = seconds is None or seconds > ALLOWED_STOP_SECONDS
    return unobserved(attack, sent, outcome, worked=worked, server=server)


async def _queue_forecasts(server: Server, count: int, stack: AsyncExitStack) -> int:
    """Request forecasts of a session each over a connection each, without reading the answers."""
    sessions = [f"f{i}" for i in range(count)]
    body = json.dumps({"sessions": sessions, "observations": [0.5] * count}).encode()
    async with connect(server.port) as connection:
        await connection.request("POST", "/observations", body)
    opened: list[Connection] = []
    for i in range(count):
        with suppress(OSError):
            connection = await stack.enter_async_context(connect(server.port))
            await connection.send(request("GET", f"/sessions/f{i}/forecast?steps={STEPS}"))
            opened.append(connection)
    return len(opened)


async def _recovery_seconds(server: Server) -> float:
    """Seconds until five chunks in a row are answered within the bound."""
    start, quick = time.monotonic(), 0
    with suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY_SECONDS), connect(server.port) as connection:
            while quick < 5:
                begin = time.perf_counter()
                await connection.send(observations("recovery", 0.5))
                await connection.answer()
                quick = quick + 1 if (time.perf_counter() - begin) * 1e3 < STOP_MS / 5 else 0
    return time.monotonic() - start
