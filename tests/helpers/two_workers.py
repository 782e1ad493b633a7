"""Two workers of one server on the test's event loop, so that a test can inspect both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app import server
from app.config import Settings
from app.engine.engine import Engine
from app.workers.place import Place, owner_of
from app.workers.sockets import bind
from app.workers.workers import Workers
from tests.helpers.faults import until
from tests.helpers.ways import Way

WORKERS = 2


def owned(worker: int, count: int, prefix: str = "s") -> list[str]:
    """Names of sessions that this worker owns."""
    names = (f"{prefix}{i}" for i in range(100_000))
    found = (name for name in names if owner_of(name, WORKERS) == worker)
    return [next(found) for _ in range(count)]


class TwoWorkers:
    """Both workers. `ways[i]` sends its requests to worker i, whoever owns their sessions."""

    def __init__(self, servers: list[server.Server], ways: list[Way]) -> None:
        self.servers = servers
        self.ways = ways

    @property
    def engines(self) -> list[Engine]:
        return [way.engine for way in self.ways]

    def workers(self, i: int) -> Workers:
        """What worker i knows of the others."""
        peers: Any = self.engines[i].peers
        return peers

    def hang_up(self, i: int) -> None:
        """Cut the connection on which worker i sends jobs to the other."""
        (peer,) = self.workers(i)._peers.values()
        peer._connection.close()


@asynccontextmanager
async def two_workers(
    way: type[Way], folder: Path, zoo_folder: Path, **changes: Any
) -> AsyncIterator[TwoWorkers]:
    """Start both workers, each at a port of its own, so that a test chooses where a request arrives."""
    (folder / "sockets").mkdir()
    defaults = {"models": (zoo_folder,), "default_model": "sine", "port": 0, "log_level": "warning"}
    small = {"resident_sessions": 1024, "workers": WORKERS}
    settings = Settings(**(defaults | small | way.settings | changes))
    places = [Place(i, WORKERS, folder / "sockets") for i in range(WORKERS)]
    servers = [server.create_server(settings, place=place) for place in places]
    sockets = [bind("127.0.0.1", 0, shared=False) for _ in places]
    for serving in servers:
        serving.announces = False
        serving.config.load()
        serving.lifespan = serving.config.lifespan_class(serving.config)
    await asyncio.gather(*map(server.Server.startup, servers, sockets))
    async with AsyncExitStack() as opened:
        ways = []
        for serving, (listening,) in zip(servers, sockets, strict=True):
            port = listening.getsockname()[1]
            await serving.on_tick(0)
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            http = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits, verify=False
            )
            await opened.enter_async_context(http)
            service = way(serving.config.app.state.engine, http, port)  # type: ignore[union-attr]
            service.server, service.app = serving, serving.config.app
            ways.append(service)
        both = TwoWorkers(servers, ways)
        await until(lambda: not any(engine.readiness_problems() for engine in both.engines))
        try:
            yield both
        finally:
            for service in ways:
                await service.close()
            await opened.aclose()
            await asyncio.gather(*map(_stop, servers))


async def _stop(serving: server.Server) -> None:
    if serving.mover is not None:
        serving.mover.stop()
    for listener in serving.servers:
        listener.close()
    for connection in list(serving.server_state.connections):
        connection.shutdown()
    try:
        await until(lambda: not serving.server_state.connections)
    finally:  # a test that failed may have left some
        for connection in list(serving.server_state.connections):
            connection.transport.abort()
        await serving.lifespan.shutdown()
