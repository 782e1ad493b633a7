"""A session whose record cannot be made, written or read fails alone, in every store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.config import Settings
from app.engine import residents
from app.engine.engine import Engine
from app.errors import CarryoverError, SessionDamaged
from app.jobs.answers import ChunkAnswer, SessionView
from app.jobs.jobs import Advance, AdvanceMany, Create, Export, Fork, Import, Inspect
from app.jobs.session_list import SessionList
from models.forecaster import Forecaster
from tests.helpers.faults import held, queued
from tests.helpers.redis_server import needs_redis
from tests.helpers.services import STORES

pytestmark = pytest.mark.anyio

FAR = [1e13, 1e16, 1e305]  # seconds to live; what `PUT /sessions/{id}/state` and `POST /sessions` refuse
EVERY_STORE = ["memory", "through", "sqlite", pytest.param("redis", marks=needs_redis)]


@pytest.fixture(params=EVERY_STORE)
def opened(request, tmp_path, artifacts, clock):
    """Starts an engine over a store: `async with opened(resident_sessions=4) as engine`."""
    if request.param == "redis":
        request.getfixturevalue("redis_url")

    @asynccontextmanager
    async def opened(**changes) -> AsyncIterator[Engine]:
        settings = Settings(
            **({"resident_sessions": 64, "batch_sessions": 32, "bulk_sessions": 32} | changes)
        )
        store = STORES[request.param](settings, tmp_path, clock)
        engine = Engine([Forecaster(artifacts["sine"])], store, settings, clock)
        engine.start()
        yield engine
        await engine.stop()

    return opened


def chunk(session: str, at: int) -> Advance:
    return Advance(session, np.full((1, 1), 0.5, np.float32), at)


def bulk(names: list[str], at: int) -> AdvanceMany:
    ones = np.ones(len(names), np.int64)
    return AdvanceMany(SessionList(names), np.full((len(names), 1), 0.5, np.float32), ones, at * ones)


async def in_one_batch(engine: Engine, jobs: list) -> list:
    async with held(engine) as release:
        answers = [asyncio.ensure_future(engine.ask(job)) for job in jobs]
        await queued(engine, {session for job in jobs for session in job.sessions})
        release.set()
        return await asyncio.gather(*answers, return_exceptions=True)


@pytest.mark.parametrize("ttl_seconds", FAR)
async def test_a_session_that_cannot_be_stored_fails_alone(opened, ttl_seconds):
    async with opened() as engine:
        for name in ("a", "b", "c", "origin"):
            await engine.ask(chunk(name, 0))
        state = await engine.ask(Export("origin"))
        far = type(state)(*(getattr(state, name) for name in state.__slots__[:7]), ttl_seconds, *(
            getattr(state, name) for name in state.__slots__[8:]))  # fmt: skip
        a, b, imported, created, forked = await in_one_batch(
            engine,
            [
                chunk("a", 1),
                bulk(["b", "c"], 1),
                Import("imported", far),
                Create("created", ttl_seconds=ttl_seconds),
                Fork("origin", "forked"),
            ],
        )
        assert isinstance(a, ChunkAnswer)
        assert b.positions.tolist() == [2, 2]
        assert isinstance(forked, SessionView)
        for name, outcome in (("imported", imported), ("created", created)):
            if isinstance(outcome, SessionView):  # this store can keep it
                assert (await engine.ask(Inspect(name))).session == name
            else:
                assert "cannot be stored" in outcome.detail
                assert engine.residents.find(name) is None
        assert engine.metrics.failed_ticks == 0
        assert engine.readiness_problems() == []
        for name in ("a", "b", "c"):
            assert (await engine.ask(chunk(name, 2))).position == 3
        counted = len(engine.residents)
        assert counted == 5 + sum(isinstance(outcome, SessionView) for outcome in (imported, created))
        slabs = engine.residents.models.slabs.values()
        assert sum(slab.capacity - slab.free_rows - len(slab) for slab in slabs) == 0


async def test_a_session_of_a_bulk_request_that_cannot_be_sealed_fails_alone(opened, monkeypatch):
    names = [f"s{i}" for i in range(6)]
    async with opened() as engine:
        await engine.ask(bulk(names, 0))
        spoilt = engine.residents.find("s3")[1]
        epoch = engine.residents.models.slab_for_model("sine").headers["epoch"][spoilt]
        pack = residents.pack

        def failing(rows):
            if (rows.headers["epoch"] == epoch).any():
                raise ValueError("no such record")
            return pack(rows)

        with monkeypatch.context() as patch:
            patch.setattr(residents, "pack", failing)
            answer = await engine.ask(bulk(names, 1))
        if not engine.residents.store.writes_through:
            return
        assert list(answer.errors) == [3]
        assert answer.positions.tolist() == [2, 2, 2, -1, 2, 2]
        assert (await engine.ask(bulk(names, 2))).positions.tolist() == [3, 3, 3, -1, 3, 3]
        assert (await engine.ask(chunk("s3", 1))).position == 2


async def test_a_job_whose_admission_raises_fails_alone(opened, monkeypatch):
    async with opened() as engine:
        await engine.ask(chunk("a", 0))
        monkeypatch.setattr("app.engine.admission.session_view", lambda *_: 1 / 0)
        a, created = await in_one_batch(engine, [chunk("a", 1), Create("b")])
        assert a.position == 2
        assert isinstance(created, CarryoverError)
        assert engine.residents.find("b") is None
        assert engine.metrics.failed_ticks == 0


async def test_a_stored_session_that_cannot_be_read_fails_alone(opened, monkeypatch):
    """Four rows, so that the first sessions rest in the store."""
    names = [f"s{i}" for i in range(8)]
    async with opened(resident_sessions=4, batch_sessions=4, bulk_sessions=4) as engine:
        for name in names:
            await engine.ask(chunk(name, 0))
        resting = [name for name in names if engine.residents.find(name) is None][:3]
        assert len(resting) == 3
        unpack, bad = residents.unpack, []

        def failing(records, *layout):
            bad[:] = bad or [records[0]]
            if bad[0] in records:
                raise residents.StoreFailed("a stored session cannot be read: planted")
            return unpack(records, *layout)

        with monkeypatch.context() as patch:
            patch.setattr(residents, "unpack", failing)
            outcomes = await in_one_batch(engine, [chunk(name, 1) for name in resting])
        damaged = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, SessionDamaged)]
        assert len(damaged) == 1
        assert [outcome.position for i, outcome in enumerate(outcomes) if i not in damaged] == [2, 2]
        assert (await engine.ask(chunk(resting[damaged[0]], 1))).position == 2  # it is still there
