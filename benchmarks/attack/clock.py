"""A step of the machine's clock past the time to live of every session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.attack.http import Connection, connect, parse
from benchmarks.attack.result import Checks, Result, Run, observed, unobserved
from benchmarks.attack.server import PROGRAM, serving

TTL_SECONDS, YEAR_SECONDS = 60, 31_536_000
SWEEP_SECONDS = 1.5
"""Longer than the pause between two sweeps of expired sessions."""
STOP_SECONDS = 20.0
STEPPED = """
import time
wall, path = time.time, {path!r}
time.time = lambda: wall() + float(open(path).read())
"""
"""Python's wall clock as if the machine's had been stepped by the number of seconds in a file."""


async def clock(run: Run) -> AsyncIterator[Result]:
    """A step of a year while the server runs, and one between two runs."""
    folder = run.new_folder()
    offset = folder / "offset"
    offset.write_text("0")
    settings: dict[str, Any] = {"store": f"sqlite:{folder / 'store.sqlite'}", "idle_ttl_seconds": TTL_SECONDS}
    program = STEPPED.format(path=str(offset)) + PROGRAM
    async with serving(run.target, folder, program=program, **settings) as server:
        async with observed(run, server) as view, connect(server.port) as connection:
            checks = Checks()
            await _expect_position(checks, connection, "used", 0)
            await _expect_position(checks, connection, "idle", 0)
            offset.write_text(str(YEAR_SECONDS))
            await asyncio.sleep(SWEEP_SECONDS)
            await _expect_position(checks, connection, "used", 1)
        yield view.result(
            "clock step while the server runs", _sent(), str(checks), worked=checks.worked, bounded=False
        )
        await server.stop(STOP_SECONDS)
    offset.write_text(str(2 * YEAR_SECONDS))
    async with (
        serving(run.target, folder, program=program, **settings) as server,
        connect(server.port) as connection,
    ):
        checks = Checks()
        await asyncio.sleep(SWEEP_SECONDS)
        await _expect_position(checks, connection, "used", 2)
        await _expect_position(checks, connection, "idle", 1)
    yield unobserved("clock step between two runs", _sent(), str(checks), worked=checks.worked, server=server)


def _sent() -> str:
    return f"a step of a year; sessions may idle for {TTL_SECONDS} s"


async def _expect_position(checks: Checks, connection: Connection, session: str, at: int) -> None:
    """A chunk that continues a session where it was must be applied."""
    body = f'{{"observations":[0.5],"at":{at}}}'.encode()
    status, answer = await connection.request("POST", f"/sessions/{session}/observations", body)
    position = (parse(answer) or {}).get("position")
    checks.expect((status, position) == (200, at + 1), f"a chunk at {at} is answered {status}")
