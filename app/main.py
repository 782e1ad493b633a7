"""Wiring: the only place that constructs the parts and puts them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import orjson
import torch
import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from app.access.callers import Door
from app.access.keys import KeyRing
from app.api import errors
from app.api.middleware.body_limit import BodyLimit
from app.api.middleware.guard import Guard
from app.api.prometheus import Exposition
from app.api.routes import bulk, dashboard, health, metrics, models, sessions
from app.codec.bulk import BulkLimits
from app.codec.chunks import Limits
from app.config import Settings
from app.dashboard import assets
from app.engine.engine import Engine
from app.errors import CarryoverError, ConfigError
from app.jobs.jobs import Adopt
from app.model_library import Library
from app.observability import logs
from app.observability.tracing import tracing_to
from app.open_inference import fast_path
from app.open_inference import routes as protocol
from app.open_inference.catalog import Catalog
from app.open_inference.grpc_port import port_of
from app.process_tuning import keep_wave_memory, spare_the_loaded
from app.protocols.http import HotProtocol
from app.protocols.stream_socket import upgrades
from app.stores import Store
from app.stores.memory import MemoryStore
from app.stores.sqlite.store import SqliteStore

log = logging.getLogger("carryover")

KEYS_SECONDS = 1.0  # after which a change of the keys' file is noticed at the latest
GRACE_SECONDS = 30  # for what was accepted, once the server is told to stop


def create_app(settings: Settings) -> FastAPI:
    """The service, its models loaded; the engine runs for the length of the app's lifespan.

    Raises
    ------
    ConfigError : a model cannot be loaded, the default is none of them, or the keys cannot be read
    """
    # Two threads on the small products of a wave cost several times what they bring.
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    keep_wave_memory()
    library = Library(settings)
    forecasters = library.load()
    store = open_store(settings)
    library.keep(forecasters)
    engine = Engine(forecasters, store, settings, older=library.older(forecasters))

    ring = KeyRing(settings.api_keys_file) if settings.api_keys_file is not None else None
    engine.tracing = tracing_to(settings.traces, _version())
    door = Door(engine, settings, ring)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if ring is not None:
            await engine.sessions.take_census()
        engine.start()
        watching = asyncio.create_task(_watch_keys(door), name="keys")
        if grpc is not None:
            await grpc.open()
        yield
        if grpc is not None:
            await grpc.close()
        watching.cancel()
        await engine.stop()
        if engine.tracing is not None:
            await asyncio.to_thread(engine.tracing.close)

    app = FastAPI(
        title="Carryover",
        version=_version(),
        summary="Stateful recurrent models over streams: nothing is forgotten until you say reset.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from another host; ours is in api/dashboard.py
        redoc_url=None,
    )
    app.state.engine = engine
    app.state.door = door
    app.state.exposition = Exposition(engine, door, app.version, settings.store_path)
    app.state.library = library
    app.state.dashboard = assets()
    app.state.catalog = Catalog(engine, library, settings, app.version)
    app.state.limits = Limits(
        settings.chunk_observations, settings.forecast_steps, max(one.input_size for one in forecasters)
    )
    app.state.grpc = grpc = port_of(settings, app.state.catalog, door, app.state.limits)
    app.state.bulk_limits = BulkLimits(settings.bulk_sessions, app.state.limits)
    errors.install(app)
    app.add_middleware(BodyLimit, most=settings.body_bytes)
    app.add_middleware(
        Guard,
        door=door,
        metrics=engine.metrics,
        allowed=settings.allowed_origins or (),
        hosts=settings.own_names,
        logs_requests=settings.access_log,
    )
    for module in (sessions, bulk, models, health, metrics, dashboard, protocol):
        app.router.routes.extend(module.router.routes)  # as they are: include_router makes each of them anew
    return app


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens and spares the collector what will never be garbage.

    Parameters
    ----------
    drain_seconds : once told to stop, it serves on for this long, and says that it is not ready
    published_port : the port that clients use, where it is not the one listened on
    """

    def __init__(
        self, config: uvicorn.Config, drain_seconds: float = 0.0, published_port: int | None = None
    ) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.published_port = published_port
        self._leaves_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, or, told a second time, stop."""
        engine = self.config.app.state.engine  # type: ignore[union-attr]
        if not self.drain_seconds or engine.draining:
            super().handle_exit(sig, frame)
            return
        engine.draining = True
        self._leaves_at = time.monotonic() + self.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; asked ten times a second."""
        self.should_exit |= time.monotonic() >= self._leaves_at
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; then spare the collector what was loaded."""
        await super().startup(sockets)
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError, RuntimeError):  # no SIGHUP, or no main thread
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
        spare_the_loaded()
        print(f"Carryover listens on {self.address}. Try:\n\n  {self._example()}\n", flush=True)

    @property
    def address(self) -> str:
        """Where clients find it: where it is published, else the first socket's own port, for 0 takes any."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"{'https' if self.config.is_ssl else 'http'}://{host}:{self.published_port or port}"

    async def _reload(self) -> None:
        """Every artifact as it is on disk now (SIGHUP); one that cannot be loaded changes nothing."""
        state = self.config.app.state  # type: ignore[union-attr]
        state.door.refresh()
        try:
            forecasters = await asyncio.to_thread(state.library.load)
            await asyncio.to_thread(state.library.keep, forecasters)
            for forecaster in forecasters:
                await state.engine.ask(Adopt(forecaster))
        except CarryoverError as error:
            log.error("reload refused: %s", error)

    def _example(self) -> str:
        forecaster = self.config.app.state.engine.sessions.slab_of(None).forecaster  # type: ignore[union-attr]
        scaling = forecaster.artifact.scaling
        rows = [[float(f"{number:.3g}") for number in scaling.mean + part * scaling.std] for part in (0, 0.1)]
        body = orjson.dumps({"observations": rows}).decode()
        return f"curl {self.address}/sessions/demo/observations -d '{body}'"


def server(settings: Settings) -> Server:
    """The HTTP server of the service, ready to run.

    Raises
    ------
    ConfigError : as `create_app`
    """
    app = create_app(settings)
    others = {fast_path.PREFIX: fast_path.route(app.state.catalog)}
    hot = HotProtocol.bound(app.state.door, app.state.bulk_limits, others)
    sockets = upgrades(app.state.door, app.state.limits)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=hot,
        ws=sockets,  # type: ignore[arg-type]
        access_log=False,  # the guard and the hot route write their own, which names no session
        log_level=settings.log_level,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        log_config=logs.configuration(settings.log_format, settings.log_level),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return Server(config, settings.drain_seconds, settings.published_port)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, and finish what was accepted. Returns the exit status.

    Raises
    ------
    ConfigError : as `create_app`
    """
    _raise_open_files()
    serving = server(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; a stop that was asked for is a success.
        signal.signal(number, lambda *_: None)
    try:
        serving.run()
    except SystemExit:  # uvicorn could not listen, and has said why
        return 1
    return 0 if serving.started else 1


def _raise_open_files() -> None:
    """As many open files as this user may have: a connection is one, and the usual limit is 1,024."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _watch_keys(door: Door) -> None:
    while True:
        await asyncio.sleep(KEYS_SECONDS)
        door.refresh()


def open_store(settings: Settings) -> Store:
    """The store that the settings name.

    Raises
    ------
    ConfigError : its file cannot be used, or is in use
    """
    tombstone_seconds = settings.tombstone_ttl_seconds or float("inf")
    if settings.store_is_shared:
        return shared_store(settings, tombstone_seconds)
    if settings.store_path is None:
        return MemoryStore(settings.tombstones, tombstone_seconds)
    # Behind each fsync the store's thread competes with a busy event loop for the interpreter: the default of
    # 5 ms would be the price of every commit.
    sys.setswitchinterval(0.0005)
    return SqliteStore(settings.store_path, settings.tombstones, tombstone_seconds, settings.durability)


def shared_store(settings: Settings, tombstone_seconds: float) -> Store:
    """The store on the network that the settings name.

    Raises
    ------
    ConfigError : its URL cannot be read, it cannot be reached, or its client is not installed
    """
    try:
        from app.stores.redis.scripting import Acknowledged
        from app.stores.redis.store import RedisStore
        from app.stores.redis.url import place
    except ImportError as error:
        raise ConfigError(
            f"a redis:// store needs its client: pip install 'carryover[redis]' ({error})"
        ) from error
    try:
        where = place(settings.store)
    except ValueError as error:
        raise ConfigError(f"store (CARRYOVER_STORE) cannot be read: {error}") from error
    sys.setswitchinterval(0.0005)  # as for a file, below
    timeout = settings.store_timeout_seconds
    acknowledged = Acknowledged(settings.store_replicas, settings.store_fsync, int(900 * timeout))
    return RedisStore(where, tombstone_seconds, acknowledged, timeout)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("carryover")
    except PackageNotFoundError:
        return "0+unknown"
