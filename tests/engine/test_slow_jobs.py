"""Forecasts and long chunks hold up nobody, alternate between connections, and end with their clients."""

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.config import Settings
from app.engine.engine import Engine
from app.engine.slow_jobs import SlowJobs
from app.errors import Stopping, Unavailable
from app.jobs.answers import ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Client, Forecast, Inspect
from app.jobs.session_list import SessionList
from app.stores.memory import MemoryStore
from models.forecaster import Forecaster
from tests.helpers.faults import held, queued, until
from tests.helpers.services import Clock
from tests.helpers.zoo import one_pass, rolled_out, series

pytestmark = pytest.mark.anyio

FLOOD = 300
FOREVER = 1_000_000  # steps that no test waits for


@asynccontextmanager
async def started(artifacts, **changes):
    settings = Settings(
        **({"resident_sessions": 2048, "batch_sessions": 256, "bulk_sessions": 256} | changes)
    )
    engine = Engine([Forecaster(artifacts["sine"])], MemoryStore(100, 1e9), settings, Clock())
    engine.start()
    yield engine
    await engine.stop(0.0)


def chunk(session: str, steps: int = 1, at: int | None = None, **more) -> Advance:
    return Advance(session, series("sine", steps), at, **more)


async def flooded(engine: Engine, job, count: int = FLOOD) -> list[asyncio.Future]:
    """Sessions that have observed something, and a slow job of each under way."""
    names = SessionList(f"s{i}" for i in range(count))
    ones = np.ones(count, np.int64)
    await engine.ask(AdvanceMany(names, np.full((count, 1), 0.5, np.float32), ones))
    answers = [asyncio.ensure_future(engine.ask(job(name, i))) for i, name in enumerate(names)]
    for answer in answers:
        # Read, though no test may await it.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    await until(lambda: len(engine._backlog.slow) + len(engine._backlog.queue) >= count // 2, 60.0)
    return answers


async def ticks_until(engine: Engine, job) -> int:
    before = engine.ticks
    await engine.ask(job)
    return engine.ticks - before


def endless_forecast(client=None):
    return lambda name, i: Forecast(name, FOREVER, client=client or Client())


def endless_chunk(name, i):
    return chunk(name, horizon=FOREVER, client=Client())


@pytest.mark.parametrize("job", [endless_forecast(), endless_chunk], ids=["forecast", "chunk"])
async def test_a_chunk_is_answered_in_the_next_batch_however_many_slow_jobs_wait(artifacts, job):
    async with started(artifacts) as engine:
        await flooded(engine, job)
        advanced = []
        step = engine._stepper.step
        engine._stepper.step = lambda batch: (
            advanced.append(len(batch.forecasts) + len(batch.unusual_chunks)) or step(batch)
        )
        for at in range(5):
            assert await ticks_until(engine, chunk("quick", at=at)) <= 2
        assert await ticks_until(engine, Inspect("quick")) <= 2
        assert max(advanced) <= engine.settings.batch_sessions // 4
        assert len(engine._backlog.slow.pinned) <= engine.settings.batch_sessions // 4


@pytest.mark.parametrize("kind", ["forecast", "chunk"])
async def test_a_connection_that_floods_takes_turns_with_another(artifacts, kind):
    """The flood has one connection; without turns the other would wait for all its jobs."""
    flood = Client()
    async with started(artifacts, batch_sessions=8, bulk_sessions=8) as engine:
        await engine.ask(chunk("other", 3))
        await flooded(engine, endless_forecast(flood), 200)
        job = Forecast("other", 40, client=Client())
        if kind == "chunk":
            job = chunk("other", 2, horizon=40, client=Client())
        assert await ticks_until(engine, job) <= 12


async def test_forecasts_and_long_chunks_that_alternate_are_right(artifacts):
    async with started(artifacts, batch_sessions=8, bulk_sessions=8, resident_sessions=16) as engine:
        wholes = {f"s{i}": series("sine", 400, i) for i in range(12)}
        answers = await asyncio.gather(
            *(engine.ask(Advance(name, rows, 0, horizon=50)) for name, rows in wholes.items())
        )
        forecasts = await asyncio.gather(*(engine.ask(Forecast(name, 50)) for name in wholes))
        for rows, answer, forecast in zip(wholes.values(), answers, forecasts, strict=True):
            want = one_pass(artifacts["sine"], rows)
            np.testing.assert_allclose(answer.answer["predictions"], want, atol=2e-6)
            want = rolled_out(artifacts["sine"], rows, 50)
            np.testing.assert_allclose(answer.answer["forecast"], want, atol=1e-4)
            np.testing.assert_allclose(forecast.answer["forecast"], want, atol=1e-4)
            assert (answer.position, forecast.position) == (400, 400)


@pytest.mark.parametrize("job", [Forecast, chunk], ids=["forecast", "chunk"])
async def test_a_slow_job_whose_client_left_is_dropped_and_its_session_goes_on_where_it_was(artifacts, job):
    client, released = Client(), []
    async with started(artifacts) as engine:
        await engine.ask(chunk("a", 3))
        await flooded(engine, endless_forecast(client), 50)
        slow = (
            Forecast("a", FOREVER, client=client)
            if job is Forecast
            else chunk("a", 2, horizon=FOREVER, client=client)
        )
        slow.reply = released.append
        engine.submit(slow)
        behind = asyncio.ensure_future(engine.ask(chunk("a", 1, at=3)))
        await until(lambda: slow.progress is not None)
        assert not behind.done()
        client.left = True
        assert (await behind).position == 4
        (outcome,) = released
        assert isinstance(outcome, Unavailable)
        await until(lambda: not engine._backlog.slow)
        for i in range(50):
            assert (await engine.ask(chunk(f"s{i}", 1, at=1))).position == 2


async def test_a_slow_job_whose_client_left_before_it_began_is_never_begun(artifacts):
    client, outcomes = Client(), []
    async with started(artifacts) as engine:
        await engine.ask(chunk("a", 3))
        async with held(engine) as release:
            job = Forecast("a", 10, client=client)
            job.reply = outcomes.append
            engine.submit(job)
            await queued(engine, "a")
            client.left = True
            release.set()
            await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], Unavailable)
        assert job.progress is None


async def test_stopping_is_bounded_and_answers_every_job(artifacts):
    async with started(artifacts) as engine:
        answers = await flooded(engine, endless_forecast())
        lined_up = [asyncio.ensure_future(engine.ask(chunk(f"s{i}", at=1))) for i in range(20)]
        await asyncio.sleep(0)
        began = time.monotonic()
        await engine.stop(0.2)
        assert 0.2 <= time.monotonic() - began < 5
        outcomes = await asyncio.gather(*answers, *lined_up, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Stopping}
        assert (len(engine._backlog.queue), len(engine._backlog.slow), engine.queue_bytes) == (0, 0, 0)


async def test_stopping_without_a_bound_finishes_what_was_accepted(artifacts):
    async with started(artifacts) as engine:
        answers = await flooded(engine, lambda name, i: Forecast(name, 100))
        await engine.stop()
        assert {type(outcome) for outcome in await asyncio.gather(*answers)} == {ChunkAnswer}


def test_owners_alternate_tenants_before_connections():
    slow, first, second = SlowJobs(4), Client(), Client()
    flood = [Forecast(f"s{i}", 1, client=first) for i in range(3)]
    other = Forecast("x", 1, client=second)
    tenants = [Forecast("t/a", 1, client=first), Forecast("t/b", 1, client=second)]
    slow.put([*flood, other, *tenants])
    assert slow.take(6) == [flood[0], other, tenants[0], flood[1], tenants[1], flood[2]]
    assert len(slow) == 0


def test_only_begun_chunks_are_counted_and_pinned():
    slow = SlowJobs(2)
    begun, waiting = chunk("a", 3), chunk("b", 3)
    begun.progress = Forecast("a", 1)  # any progress
    slow.put([begun, waiting, Forecast("c", 1)])
    assert (slow.pinned, slow.may_begin) == ({"a"}, 1)
    assert begun in slow.take(3)
    assert (slow.pinned, slow.may_begin) == (set(), 2)
