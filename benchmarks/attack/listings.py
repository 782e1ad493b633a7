"""Lists of sessions at a million sessions, by four clients at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from statistics import median
from typing import Any

import numpy as np

from benchmarks.attack.http import connect
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import Server, bystander, serving
from benchmarks.binary_layout import BINARY, encode_bulk

SESSIONS, REDIS_SESSIONS, PER_REQUEST = 1_000_000, 100_000, 10_000
LISTERS, LIST_SECONDS, LIMIT_SECONDS = 4, 5.0, 90.0
PAGE_MS = 20.0
"""A page of 100 must take at most this."""
P99_FACTOR, P99_FLOOR_MS = 2.0, 5.0
"""The bystander's p99 may double; below the floor the machine's own noise is larger."""
QUERIES = ("limit=100&model=other", "limit=100&after=s0500000", "limit=1&model=other")
BY_VALUE = (
    "limit=100&order=last_seen&descending=true",
    "limit=100&order=last_seen",
    "limit=100&order=last_seen&descending=true&prefix=s05",
)


async def listings(run: Run) -> AsyncIterator[Result]:
    """In memory, in SQLite, and in Redis if it is asked for."""
    folder = run.new_folder()
    stores: list[tuple[str, int, dict[str, Any]]] = [
        ("memory", SESSIONS, {}),
        ("SQLite", SESSIONS, {"store": f"sqlite:{folder}/store.sqlite"}),
        ("memory, all resident", SESSIONS, {"resident_sessions": SESSIONS + 1000}),
    ]
    for store, sessions, settings in stores:
        async for result in _listings(run, store, sessions, settings):
            yield result
    if run.redis:
        from benchmarks.failover.processes import RedisServer

        with RedisServer(folder / "redis") as redis:
            async for result in _listings(run, "Redis", REDIS_SESSIONS, {"store": redis.url}):
                yield result


async def _listings(run: Run, store: str, sessions: int, settings: dict[str, Any]) -> AsyncIterator[Result]:
    count = run.scaled(sessions)
    limits = {"max_sessions": sessions + 1000, "resident_sessions": 20_000}
    async with serving(run.target, run.new_folder(), **(limits | settings)) as server:
        await _create(server, count)
        for order, queries in (("by name", QUERIES), ("by value", BY_VALUE)):
            yield await _listing(run, server, f"lists {order}, {store}", count, queries)


async def _listing(run: Run, server: Server, name: str, count: int, queries: Sequence[str]) -> Result:
    async with bystander(server, server.port) as before:
        await asyncio.sleep(2.0)
    pages: list[float] = []
    async with observed(run, server) as view:
        alone = await _list(server, 1, LIST_SECONDS / 5, queries)
        pages = await _list(server, LISTERS, LIST_SECONDS, queries)
    page_ms = median(alone or pages or [float("inf")]) * 1e3
    calm, during = float(before.get("p99_ms", 0.0)), float(view.report.get("p99_ms", 0.0))
    slow = during > max(P99_FACTOR * calm, P99_FLOOR_MS)
    outcome = (
        f"{len(pages)} pages; one alone takes {page_ms:,.1f} ms; "
        f"p99 of a chunk {calm:.1f} ms before, {during:.1f} ms during"
    )
    worked = page_ms > PAGE_MS or slow
    sent = f"{LISTERS} clients list for {LIST_SECONDS:.0f} s at {count:,} sessions"
    return view.result(name, sent, outcome, worked=worked)


async def _create(server: Server, count: int) -> None:
    """Create sessions of the model `bench` by bulk requests."""
    async with connect(server.port) as connection:
        for start in range(0, count, PER_REQUEST):
            names = [f"s{i:07}" for i in range(start, min(start + PER_REQUEST, count))]
            body = encode_bulk(names, [np.array([0.5])] * len(names))
            status, answer = await connection.request("POST", "/observations", body, kind=BINARY)
            if status != 200:
                raise RuntimeError(f"the sessions could not be created: {status} {answer[:200]!r}")


async def _list(server: Server, clients: int, seconds: float, queries: Sequence[str]) -> list[float]:
    """List for some seconds, and return the seconds that each page took."""
    pages: list[float] = []
    deadline = time.perf_counter() + seconds

    async def client(stack: AsyncExitStack, number: int) -> None:
        connection = await stack.enter_async_context(connect(server.port))
        turn = number
        while time.perf_counter() < deadline:
            start = time.perf_counter()
            await connection.request("GET", f"/sessions?{queries[turn % len(queries)]}")
            pages.append(time.perf_counter() - start)
            turn += 1

    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_SECONDS):
                await asyncio.gather(*(client(stack, number) for number in range(clients)))
    return pages
