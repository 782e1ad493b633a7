"""The engine by itself: order, batches, failures, stopping. No HTTP."""

import asyncio
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import Settings
from app.engine.engine import Engine
from app.errors import CarryoverError, OutOfStep, Stopping, UnknownModel
from app.jobs.answers import ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Create, Delete, Fork, Inspect, Reset
from app.jobs.session_list import SessionList
from app.stores.memory import MemoryStore
from models.forecaster import Forecaster
from tests.helpers.faults import held
from tests.helpers.services import Clock
from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def forecasters(artifacts) -> list[Forecaster]:
    return [Forecaster(artifacts[name]) for name in ("sine", "pair", "partial")]


def engine_of(forecasters, **changes) -> Engine:
    small = {
        "default_model": forecasters[0].artifact.name,
        "resident_sessions": 64,
        "batch_sessions": 16,
        "bulk_sessions": 16,
    }
    return Engine(forecasters, MemoryStore(100, 1e9), Settings(**(small | changes)), Clock())


def chunk(session: str, rows, at: int | None = None, **more) -> Advance:
    return Advance(session, np.array(rows, np.float32).reshape(len(rows), -1), at, **more)


async def test_jobs_of_one_session_are_done_in_the_order_they_came(forecasters):
    engine, answers = engine_of(forecasters), []
    for at in range(20):
        job = chunk("a", [[0.1]], at)
        job.reply = lambda outcome: answers.append(outcome.position)
        engine.submit(job)
    engine.start()
    await engine.stop()
    assert answers == list(range(1, 21))


async def test_stopping_finishes_accepted_jobs_and_refuses_new_jobs(forecasters):
    engine, answers = engine_of(forecasters), []
    for i in range(40):
        job = chunk(f"s{i}", series("sine", 3000), horizon=50)
        job.reply = answers.append
        engine.submit(job)
    engine.start()
    stopping = asyncio.ensure_future(engine.stop())
    await asyncio.sleep(0)
    assert engine.readiness_problems() == ["stopping"]
    with pytest.raises(Stopping):
        engine.submit(chunk("late", [[0.1]]))
    await stopping
    assert list(map(type, answers)) == [ChunkAnswer] * 40


async def test_a_reply_that_raises_does_not_affect_the_other_jobs(forecasters, caplog):
    engine, answers = engine_of(forecasters), []
    for i in range(3):
        job = chunk(f"s{i}", [[0.1]])
        job.reply = answers.append if i != 1 else lambda _: 1 / 0
        engine.submit(job)
    engine.start()
    with caplog.at_level(logging.CRITICAL):
        await engine.stop()
    assert len(answers) == 2


async def test_a_client_that_stopped_waiting_changes_nothing(forecasters):
    engine = engine_of(forecasters)
    engine.start()
    async with held(engine):
        waiting = asyncio.ensure_future(engine.ask(chunk("a", [[0.1]], 0)))
        await asyncio.sleep(0)
        waiting.cancel()
    assert (await engine.ask(chunk("a", [[0.1]], 0))).replayed
    await engine.stop()


@pytest.mark.parametrize("stage", ["make_resident", "commit", "publish"])
async def test_a_tick_that_fails_at_any_stage_answers_every_job_and_the_next_tick_is_right(
    forecasters, artifacts, monkeypatch, stage
):
    engine, whole = engine_of(forecasters), series("sine", 6)
    engine.start()
    await engine.ask(chunk("a", whole[:3], 0))
    with monkeypatch.context() as patch:
        owner = engine.residents if stage == "make_resident" else engine._commit
        patch.setattr(owner, stage, lambda *_: 1 / 0)
        for job in (chunk("a", whole[3:], 3), chunk("new", whole[:1], 0), Reset("a"), Inspect("nobody")):
            with pytest.raises(CarryoverError):
                await engine.ask(job)
    got = await engine.ask(chunk("a", whole[3:], 3))
    want = one_pass(artifacts["sine"], whole)[3:]
    np.testing.assert_allclose(got.answer["predictions"], want, atol=TOLERANCE)
    assert len(engine.residents) == 1
    assert all(len(slab) + slab.free_rows == slab.capacity for slab in engine.residents.models.slabs.values())
    await engine.stop()


async def test_refused_jobs_give_back_every_row_that_they_took(forecasters):
    engine = engine_of(forecasters)
    engine.start()
    for i in range(100):
        for job in (
            chunk("x", [[0.1, 0.2]]),
            chunk(f"n{i}", [[0.1]], horizon=0, model="none"),
            Fork(f"n{i}", "x"),
            Create("x", "none"),
            chunk("x", [[0.1]], 5),
        ):
            with pytest.raises(CarryoverError):
                await engine.ask(job)
    assert len(engine.residents) == 0
    assert all(slab.free_rows == slab.capacity for slab in engine.residents.models.slabs.values())
    with pytest.raises(UnknownModel):
        engine.residents.models.slab_for_model("none")
    await engine.stop()


async def test_the_smallest_slab_serves_every_kind_of_job(forecasters):
    engine = engine_of(forecasters, resident_sessions=2, batch_sessions=1, bulk_sessions=1)
    engine.start()
    for i in range(6):
        await engine.ask(chunk(f"s{i}", [[0.1]], 0))
    await engine.ask(Fork("s0", "t0", 1))
    await asyncio.gather(
        *(engine.ask(chunk(f"s{i}", [[0.1]], 1)) for i in range(6)), engine.ask(Fork("s3", "t3"))
    )
    await engine.ask(Delete("s5"))
    positions = [(await engine.ask(Inspect(name))).position for name in ("s0", "s4", "t0", "t3")]
    assert positions[:3] == [2, 2, 1]
    await engine.stop()


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_traffic_leaves_every_session_where_its_accepted_chunks_put_it(artifacts, data):
    """Random jobs through a slab of four rows, against the plainest model of a session."""
    forecaster = Forecaster(artifacts["partial"])
    names = st.sampled_from("abcdefg")
    steps = data.draw(st.lists(st.tuples(names, st.integers(1, 5), st.sampled_from("....rdf")), max_size=40))

    async def run() -> None:
        engine = engine_of([forecaster], resident_sessions=4, batch_sessions=3, bulk_sessions=3)
        engine.start()
        consumed: dict[str, list[np.ndarray]] = {}
        position: dict[str, int] = {}
        for number, (name, length, kind) in enumerate(steps):
            if kind == "." or name not in consumed:
                rows = series("partial", length, number)
                got = await engine.ask(chunk(name, rows, position.get(name, 0)))
                consumed.setdefault(name, []).append(rows)
                position[name] = position.get(name, 0) + length
                want = one_pass(artifacts["partial"], np.concatenate(consumed[name]))[-length:]
                np.testing.assert_allclose(got.answer["predictions"], want, atol=TOLERANCE)
                assert got.position == position[name]
            elif kind == "r":
                await engine.ask(Reset(name, position[name]))
                consumed[name] = []
            elif kind == "d":
                await engine.ask(Delete(name))
                del consumed[name], position[name]
            else:
                target = name.upper()
                if target not in consumed:
                    await engine.ask(Fork(name, target))
                    consumed[target], position[target] = list(consumed[name]), position[name]
        for name in consumed:
            assert (await engine.ask(Inspect(name))).position == position[name]
            with pytest.raises(OutOfStep):
                await engine.ask(chunk(name, [[0.5, 0.5]], position[name] + 1))
        await engine.stop()

    asyncio.run(run())


async def test_a_bulk_request_replaces_expired_sessions_of_another_width(artifacts):
    clock, models = Clock(), [Forecaster(artifacts[name]) for name in ("pair", "sine")]
    engine = Engine(
        models, MemoryStore(10, 1e9, clock), Settings(default_model="pair", idle_ttl_seconds=5.0), clock
    )
    engine.start()
    wide = models[0].input_size
    ones = np.ones(2, np.int64)
    await engine.ask(AdvanceMany(SessionList(["x", "y"]), np.zeros((2, 1), np.float32), ones, model="sine"))
    clock.wait(100.0)
    answer = await engine.ask(AdvanceMany(SessionList(["x", "y"]), np.zeros((2, wide), np.float32), ones))
    assert (answer.errors, answer.positions.tolist()) == ({}, [1, 1])
    await engine.stop()
