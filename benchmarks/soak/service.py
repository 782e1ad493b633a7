"""The server under test, its keys, and the requests to it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from app.access.keys import Key, generate_key, write
from benchmarks.dialects import HOST
from benchmarks.ports import free_port
from benchmarks.servers import OURS
from benchmarks.soak.checks import WrongAnswer

TENANTS = ("north", "south", "west")
RETRY_SECONDS = 60.0
RETRIED = (429, 503)


class Service:
    """A server with keys and a store on disk, which can be stopped and started again."""

    def __init__(self, folder: Path, counts: Counter[str]) -> None:
        self.folder = folder
        self.counts = counts
        self.port = free_port()
        self.tokens: dict[str, str] = {}
        self.keys: list[Key] = []
        for name, role in (*((tenant, "stream") for tenant in TENANTS), ("admin", "admin")):
            key, self.tokens[name] = generate_key(name, role=role)  # type: ignore[arg-type]
            self.keys.append(key)
        self.write_keys()
        self.process: subprocess.Popen[bytes] | None = None
        self.client: httpx.AsyncClient

    def write_keys(self, *more: Key) -> None:
        write(self.folder / "keys.json", [*self.keys, *more])

    def connect(self) -> None:
        self.client = httpx.AsyncClient(base_url=f"http://{HOST}:{self.port}", timeout=30)

    async def start(self) -> None:
        settings = {
            "PORT": self.port, "HOST": HOST, "MODELS": self.folder / "models",
            "API_KEYS_FILE": self.folder / "keys.json", "STORE": f"sqlite:{self.folder / 'soak.sqlite'}",
            "RESIDENT_SESSIONS": 64, "BATCH_SESSIONS": 32, "LOG_LEVEL": "error", "TOMBSTONES": 1000,
        }  # fmt: skip
        environment = os.environ | {f"CARRYOVER_{name}": str(value) for name, value in settings.items()}
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(OURS, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220
        self.connect()
        await self.until_answered(lambda: self.client.get("/health/ready"), (200,))

    async def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.process.wait, 60)
        if status:
            raise WrongAnswer(f"the server stopped with status {status}")

    async def until_answered(
        self, send: Callable[[], Awaitable[httpx.Response]], wanted: tuple[int, ...]
    ) -> httpx.Response:
        """Repeat a request until it is answered: after a lost connection, and after a status 429 or 503."""
        deadline = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < deadline:
            try:
                response = await send()
            except httpx.TransportError:
                self.counts["connections lost"] += 1
            else:
                if response.status_code in wanted:
                    return response
                if response.status_code not in RETRIED:
                    raise WrongAnswer(f"{response.request.url}: {response.status_code} {response.text[:300]}")
                self.counts[f"answered {response.status_code}"] += 1
            await asyncio.sleep(0.05)
        raise WrongAnswer(f"no answer for {RETRY_SECONDS:.0f} s")

    def headers(self, tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[tenant]}"}

    async def request(
        self, tenant: str, method: str, path: str, wanted: tuple[int, ...], **more: Any
    ) -> httpx.Response:
        headers = self.headers(tenant) | more.pop("headers", {})
        return await self.until_answered(
            lambda: self.client.request(method, path, headers=headers, **more), wanted
        )

    async def gauges(self) -> dict[str, float]:
        text = (await self.client.get("/metrics", headers=self.headers("admin"))).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        names = {
            "RSS MiB": "process_resident_memory_bytes", "files": "process_open_fds",
            "tasks": "carryover_tasks",
            "sockets": "carryover_sockets", "queue": "carryover_queue_jobs", "sessions": "carryover_sessions",
        }  # fmt: skip
        gauges = {name: float(values[metric]) for name, metric in names.items()}
        gauges["RSS MiB"] /= 2**20
        return gauges
