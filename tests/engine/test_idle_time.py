"""Idle time is what passes while the server runs: a step of the clock expires no session."""

from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.config import Settings
from app.engine import upkeep
from app.engine.engine import Engine
from app.errors import SessionGone
from app.jobs.jobs import Advance, Create
from app.session.steady_clock import SteadyClock
from app.stores import Record
from app.stores.sqlite.store import SqliteStore
from app.workers.store_files import divide, worker_paths
from models.forecaster import Forecaster
from tests.helpers.faults import until
from tests.helpers.redis_server import needs_redis
from tests.helpers.services import STORES

pytestmark = pytest.mark.anyio

TTL = 100.0
YEAR = 3.2e7


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def open_store(request, tmp_path, clock):
    """Opens a store whose sessions outlive it."""
    if request.param == "redis":
        request.getfixturevalue("redis_url")
    return lambda settings=Settings(): STORES[request.param](settings, tmp_path, clock)


@pytest.fixture
def started(open_store, artifacts, clock, monkeypatch):
    """Starts an engine over a store that outlives it."""
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.001)

    @asynccontextmanager
    async def started(**changes):
        settings = Settings(**({"idle_ttl_seconds": TTL, "resident_sessions": 1024} | changes))
        store = open_store(settings)
        engine = Engine([Forecaster(artifacts["sine"])], store, settings, clock)
        engine.start()
        sweeps = []
        call = engine._upkeep._expired_in_store
        engine._upkeep._expired_in_store = lambda now: sweeps.append(now) or call(now)
        yield engine
        await until(lambda: len(sweeps) > 2)
        await engine._call_store(store.tend)  # the regular one may not have come yet
        await engine.stop()

    return started


def chunk(session: str, at: int) -> Advance:
    return Advance(session, np.full((1, 1), 0.5, np.float32), at)


async def position_after(engine: Engine, job: Advance) -> int | None:
    """The position of the session after a chunk; None where the session has expired."""
    try:
        position: int = (await engine.ask(job)).position
    except SessionGone:
        return None
    return position


async def test_after_a_jump_between_two_runs_no_session_expires_until_requested(started, clock, caplog):
    names = ["first", "second", "third"]
    async with started() as engine:
        for name in names:
            await engine.ask(chunk(name, 0))
    clock.wait(YEAR)
    async with started() as engine:
        assert "CARRYOVER_EXPIRE_AFTER_JUMP" in caplog.text
        assert await position_after(engine, chunk("first", 1)) == 2
        assert (await engine.ask(Create("new"))).position == 0
    clock.wait(1.0)
    async with started() as engine:  # it is held however often the server starts
        assert await position_after(engine, chunk("second", 1)) == 2
        assert len(engine.residents) == 4
        clock.wait(TTL + 1)  # what is used after the jump idles as ever
        with pytest.raises(SessionGone):
            await engine.ask(chunk("second", 2))
    async with started(expire_after_jump=True) as engine:
        for name in ("first", "third", "new"):
            with pytest.raises(SessionGone):
                await engine.ask(chunk(name, 1))
    async with started() as engine:
        assert engine.residents.store.no_expiry_before is None


async def test_a_stop_that_is_shorter_than_the_idle_time_counts_as_idle_time(started, clock, caplog):
    async with started() as engine:
        await engine.ask(chunk("a", 0))
        await engine.ask(Create("brief", ttl_seconds=10.0))
    clock.wait(TTL - 1)
    async with started() as engine:
        assert "CARRYOVER_EXPIRE_AFTER_JUMP" not in caplog.text
        with pytest.raises(SessionGone):
            await engine.ask(chunk("brief", 1))
        assert await position_after(engine, chunk("a", 1)) == 2


async def test_a_clock_that_went_back_is_noticed_and_expires_nothing(started, clock, caplog):
    async with started() as engine:
        await engine.ask(chunk("a", 0))
    clock.wait(-YEAR)
    async with started() as engine:
        assert "earlier than the store's last write" in caplog.text
        assert await position_after(engine, chunk("a", 1)) == 2


def test_a_step_of_the_wall_clock_does_not_move_a_running_server():
    wall, monotonic = [1e9], [5.0]
    clock = SteadyClock(lambda: wall[0], lambda: monotonic[0])
    assert clock() == 1e9
    wall[0] += YEAR
    assert clock() == 1e9
    monotonic[0] += 2.5
    assert clock() == 1e9 + 2.5
    wall[0] = 0.0
    assert clock() == 1e9 + 2.5


def test_engine_and_stores_use_the_steady_clock(artifacts, tmp_path):
    from app.stores.factory import open_store

    for store in ("memory", f"sqlite:{tmp_path / 'store.sqlite'}"):
        settings = Settings(store=store)
        opened = open_store(settings)
        engine = Engine([Forecaster(artifacts["sine"])], opened, settings)
        assert isinstance(engine.clock, SteadyClock)
        assert isinstance(opened._clock, SteadyClock)
        opened.close()


async def test_a_start_that_fails_behind_a_long_stop_does_not_count_as_a_run(started, open_store, clock):
    async with started() as engine:
        await engine.ask(chunk("a", 0))
    clock.wait(YEAR)
    open_store().close()  # and then, for example, the file of keys is missing: no engine has started
    clock.wait(1.0)
    async with started() as engine:
        assert await position_after(engine, chunk("a", 1)) == 2


async def test_a_server_that_nobody_called_was_not_stopped(started, clock, caplog):
    async with started() as engine:
        await engine.ask(Create("patient", ttl_seconds=YEAR))
        clock.wait(TTL + 1)
    async with started() as engine:
        assert "CARRYOVER_EXPIRE_AFTER_JUMP" not in caplog.text
        assert engine.residents.store.no_expiry_before is None


def test_dividing_the_sessions_of_a_stopped_server_does_not_count_as_a_run(tmp_path, clock):
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path, 100, 1000.0, 0.0, clock)
    store.commit([Record("a", "f" * 64, clock() + TTL, b"", 1).block()], [])
    store.close()
    last = clock()
    list(divide(path, 2))
    for new in worker_paths(path, 2):
        opened = SqliteStore(new, 100, 1000.0, 0.0, clock)
        assert opened.last_saved == last
        opened.close()
