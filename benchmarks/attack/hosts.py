"""Requests that name a foreign host, or that a proxy and the server may read in two ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from benchmarks.attack.http import connect, request
from benchmarks.attack.result import Checks, Result, Run, observed
from benchmarks.attack.server import Server, serving

CHUNK = b'{"observations":[0.5]}'
EVIL, OWN = "host: evil.example", "host: localhost"
TARGETS = (
    ("POST", "/sessions/h/observations"),
    ("POST", "/observations"),
    ("POST", "/sessions"),
    ("GET", "/sessions"),
    ("GET", "/health/live"),
)
UNCLEAR = {
    "two Host headers": (OWN, EVIL),
    "two equal Host headers": (OWN, OWN),
    "no Host header": (),
    "two Authorization headers": (OWN, "authorization: Bearer a", "authorization: Bearer b"),
}
REDIRECTS = ("/sessions/", "/health/live/", "//evil.example/sessions/")


async def hosts(run: Run) -> AsyncIterator[Result]:
    """A rebound page, heads that can be read in two ways, and redirects, on every kind of route."""
    async with serving(run.target, run.new_folder()) as server:
        yield await _rebound(run, server)
        yield await _unclear(run, server)
    async with serving(run.target, run.new_folder(), allowed_hosts="*") as server:
        yield await _redirects(run, server)


async def _rebound(run: Run, server: Server) -> Result:
    checks = Checks()
    async with observed(run, server) as view:
        for method, path in TARGETS[:-1]:
            status, _ = await _ask(server, method, path, EVIL)
            checks.expect(status == 421, f"{method} {path}: {status}")
    sent = "Host: evil.example to a server without keys"
    return view.result("DNS rebinding", sent, str(checks), worked=checks.worked, bounded=False)


async def _unclear(run: Run, server: Server) -> Result:
    checks = Checks()
    async with observed(run, server) as view:
        for name, headers in UNCLEAR.items():
            for method, path in TARGETS:
                status, _ = await _ask(server, method, path, *headers)
                checks.expect(status == 400, f"{name}, {method} {path}: {status}")
    sent = "two Host headers, none, or two Authorization headers"
    return view.result("heads that may be read twice", sent, str(checks), worked=checks.worked, bounded=False)


async def _redirects(run: Run, server: Server) -> Result:
    checks = Checks()
    async with observed(run, server) as view:
        for path in REDIRECTS:
            _, head = await _ask(server, "GET", path, EVIL)
            locations = [line for line in head.split("\r\n") if line.lower().startswith("location:")]
            checks.expect(not any("//" in line for line in locations), f"{path}: {', '.join(locations)}")
    sent = "trailing slashes, with Host: evil.example"
    return view.result("redirects", sent, str(checks), worked=checks.worked, bounded=False)


async def _ask(server: Server, method: str, path: str, *headers: str) -> tuple[int, str]:
    """The status and the head of the answer; status 0: there was none."""
    async with connect(server.port) as connection:
        message = request(method, path, CHUNK if method == "POST" else None, headers=headers)
        try:
            await connection.send(message)
            async with asyncio.timeout(10.0):
                head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (OSError, asyncio.IncompleteReadError):
            return 0, ""
    return int(head.split(" ", 2)[1]), head
