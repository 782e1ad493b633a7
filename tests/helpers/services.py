"""Fixtures that start the service in this process, for every way and store, with a clock that tests set."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import torch

from app import main, server
from app.config import Settings
from app.process_tuning import freeze_loaded_objects, loading
from app.stores import Store
from app.stores.memory import MemoryStore
from app.stores.redis.store import RedisStore
from app.stores.redis.url import parse_url
from app.stores.sqlite.store import SqliteStore
from models.artifact.files import Artifact, save
from tests.helpers import quick_start, zoo
from tests.helpers.faults import WritesThrough, until
from tests.helpers.redis_server import RedisServer
from tests.helpers.ways import WAYS, AsgiRoute, BulkBinary, HotRoute, Way

# The same cases in every run, so that a change is refused for what it does.
# For new cases: make test ARGS=--hypothesis-profile=default
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")
torch.set_num_threads(1)
if find_spec("sniffio") is None:  # httpcore looks for it on every path with every request: found out once
    sys.modules["sniffio"] = None

Start = Callable[..., AbstractAsyncContextManager[Way]]


class Clock:
    """Seconds since 1970; they pass only when a test calls `wait`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def memory_store(settings: Settings, folder: Path, clock: Clock) -> Store:
    return MemoryStore(settings.tombstones, settings.tombstone_ttl_seconds or float("inf"), clock)


def through_store(settings: Settings, folder: Path, clock: Clock) -> Store:
    return WritesThrough(settings.tombstones, settings.tombstone_ttl_seconds or float("inf"), clock)


def sqlite_store(settings: Settings, folder: Path, clock: Clock) -> Store:
    ttl_seconds = settings.tombstone_ttl_seconds or float("inf")
    return SqliteStore(folder / "carryover.sqlite", settings.tombstones, ttl_seconds, 0.0, clock)


def redis_store(settings: Settings, folder: Path, clock: Clock) -> Store:
    return RedisStore(
        parse_url((folder / "redis.url").read_text()), settings.tombstone_ttl_seconds, clock=clock
    )


# To add a store, add a function that opens it.
STORES: dict[str, Callable[[Settings, Path, Clock], Store]] = {
    "memory": memory_store,
    "through": through_store,
    "sqlite": sqlite_store,
    "redis": redis_store,
}


JOB_WAYS = (AsgiRoute, BulkBinary)  # by one way for each kind of job: a chunk of its own, and one of many


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_pair: run over every store by every way in")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    with loading():
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every way in is tested over memory, and every store by one way for each kind of job.

    Few promises depend on both the way in and the store: those are marked `every_pair`. A test that chooses
    its own ways or stores runs over all that it chooses.
    """
    kept = [item for item in items if _pair_matters(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _pair_matters(item)])
    items[:] = kept


def _pair_matters(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    if parameters is None or not {"way", "store"} <= parameters.params.keys():
        return True
    chosen = {mark.args[0] for mark in item.iter_markers("parametrize")}
    return (
        item.get_closest_marker("every_pair") is not None
        or not chosen.isdisjoint({"way", "store"})
        or parameters.params["store"] == "memory"
        or parameters.params["way"] in JOB_WAYS
    )


def pytest_collection_finish() -> None:
    """Freeze loaded objects: the many services to come would visit all modules at each collection."""
    freeze_loaded_objects()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def artifacts() -> dict[str, Artifact]:
    return zoo.artifacts()


@pytest.fixture(scope="session")
def zoo_folder(artifacts, tmp_path_factory) -> Iterator[Path]:
    """The artifacts on disk, which no test changes: they are read once."""
    folder = tmp_path_factory.mktemp("zoo")
    for artifact in artifacts.values():
        save(artifact, folder / artifact.name)
    with pytest.MonkeyPatch.context() as patch:
        quick_start.install(patch, folder)
        yield folder


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory) -> Iterator[RedisServer]:
    """One server for the whole run; each test that uses it empties it first."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server, tmp_path) -> str:
    """An empty server's URL, which `STORES["redis"]` reads from the test's folder."""
    redis_server.ask("FLUSHALL")
    (tmp_path / "redis.url").write_text(redis_server.url)
    return str(redis_server.url)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request) -> type[Way]:
    return request.param


@pytest.fixture(params=["memory", "sqlite"])  # every promise is tested over these
def store(request) -> str:
    return request.param


@pytest.fixture
def start(way, store, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """Starts a service by every way in: `async with start(resident_sessions=4) as service`."""
    return starter(way, store, zoo_folder, clock, tmp_path, monkeypatch)


@pytest.fixture
def start_http(store, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """Start a service with FastAPI's route in memory, for tests that do not depend on the way."""
    return starter(AsgiRoute, store, zoo_folder, clock, tmp_path, monkeypatch)


@pytest.fixture
def start_hot(store, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """Start a service with the hot route, for tests that need a real connection."""
    return starter(HotRoute, store, zoo_folder, clock, tmp_path, monkeypatch)


@pytest.fixture(params=[AsgiRoute, HotRoute], ids=["asgi", "hot"])
def start_both(request, store, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """Start a service with FastAPI's route in memory, and one with the hot route, for tests of requests."""
    return starter(request.param, store, zoo_folder, clock, tmp_path, monkeypatch)


def starter(
    way: type[Way], store: str, zoo_folder: Path, clock: Clock, folder: Path, monkeypatch: Any
) -> Start:
    monkeypatch.setattr(main, "open_store", lambda settings, **_: STORES[store](settings, folder, clock))
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)  # once a process, not once a test

    def start(**changes: Any) -> AbstractAsyncContextManager[Way]:
        defaults = {"models": (zoo_folder,), "default_model": "sine", "port": 0, "log_level": "warning"}
        small = {"resident_sessions": 1024}  # reserved, not used: keeps the tests' own memory small
        settings = Settings(**(defaults | small | way.settings | changes))
        return (over_loopback if way.socket else in_memory)(way, settings, clock)

    return start


@asynccontextmanager
async def in_memory(way: type[Way], settings: Settings, clock: Clock) -> AsyncIterator[Way]:
    app = main.create_app(settings)
    app.state.engine.clock = clock
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http,
    ):
        service = way(app.state.engine, http, None)
        service.app = app
        yield service
        await service.close()


@asynccontextmanager
async def over_loopback(way: type[Way], settings: Settings, clock: Clock) -> AsyncIterator[Way]:
    """Run uvicorn's server on this event loop, so that a test can inspect the engine while it serves."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    serving = server.create_server(settings)
    engine = serving.config.app.state.engine  # type: ignore[union-attr]
    engine.clock = clock
    serving.config.load()
    serving.lifespan = serving.config.lifespan_class(serving.config)
    await serving.startup([listening])
    await serving.on_tick(0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            timeout=30,
            limits=limits,
            verify=False,  # no TLS here, and reading the certificate authorities takes 20 ms
        ) as http:
            service = way(engine, http, port)
            service.server = serving
            service.app = serving.config.app
            yield service
            await service.close()
    finally:
        for listener in serving.servers:
            listener.close()
        for connection in list(serving.server_state.connections):
            connection.shutdown()
        await until(lambda: not serving.server_state.connections)  # as uvicorn itself waits
        await serving.lifespan.shutdown()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Make each test's random numbers independent of other tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
