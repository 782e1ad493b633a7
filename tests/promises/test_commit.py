"""Commit is the only point of no return: a store that fails leaves every session where it was."""

import asyncio
from typing import Any

import numpy as np
import pytest

from app.engine import upkeep
from app.session.slab import MIN_ROWS_FOR_SLICE
from app.session.state_file import decode
from tests.helpers.faults import held, queued, until
from tests.helpers.plain import predicted
from tests.helpers.ways import check_problem
from tests.helpers.zoo import one_pass, series
from tests.promises.test_promises import equal

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["through"], indirect=True)]


def store_of(service):
    return service.engine.residents.store


async def remembered(service):
    return decode((await service.http.get("/sessions/s/state")).content).carry


async def test_a_failed_commit_moves_nothing_and_the_retry_is_right(start, artifacts):
    wholes = {f"s{i}": series("sine", 10, i) for i in range(5)}
    async with start() as service:
        for name, whole in wholes.items():
            await service.advance(name, whole[:4], 0)
        store_of(service).full = True
        async with held(service.engine) as release:
            posts = [
                asyncio.ensure_future(service.advance(name, rows[4:7], 4)) for name, rows in wholes.items()
            ]
            await queued(service.engine, wholes)
            release.set()
            for reply in await asyncio.gather(*posts):
                assert (reply.status, reply.problem["type"]) == (503, "urn:carryover:store-failed")
        assert (await service.advance("new", [[0.1]], 0)).status == 503
        store_of(service).full = False
        assert (await service.http.get("/sessions/new")).status_code == 404
        for name, whole in wholes.items():
            reply = await service.advance(name, whole[4:], 4)
            assert not reply.replayed
            equal(reply.numbers, one_pass(artifacts["sine"], whole)[4:])


async def test_a_failed_commit_moves_none_of_many_sessions_in_consecutive_rows(start_http, artifacts):
    names = [f"s{i}" for i in range(MIN_ROWS_FOR_SLICE)]
    whole = series("sine", 3)

    async def step(service, at):
        chunks = {
            "sessions": names,
            "observations": [float(whole[at, 0])] * MIN_ROWS_FOR_SLICE,
            "at": [at] * MIN_ROWS_FOR_SLICE,
        }
        return (await service.http.post("/observations", json=chunks)).json()

    async with start_http() as service:
        for at in range(2):
            await step(service, at)
        store_of(service).full = True
        refused = await step(service, 2)
        assert refused["status"] == 503
        store_of(service).full = False
        answer = await step(service, 2)
        assert answer["positions"] == [3] * MIN_ROWS_FOR_SLICE
        assert answer["replayed"] == []
        equal(
            np.array([answer["predictions"][::50]], np.float32).T, one_pass(artifacts["sine"], whole)[[2] * 6]
        )


@pytest.mark.parametrize("steps", [1, 7, 300])
async def test_after_a_failed_commit_nothing_was_learned_twice(start_http, artifacts, steps):
    """A chunk of one batch, and one of several: the errors of a tick that failed are learned from once."""
    whole = series("adaptive", 10 + steps)
    whole[11:, 0] = np.nan
    rows = [[None if np.isnan(number) else float(number) for number in row] for row in whole]
    expected = predicted(artifacts["adaptive"], artifacts["adaptive"].learning, rows)[10:]
    chunk = {"observations": rows[10:], "at": 10, "level": 0.9, "score": True}
    async with start_http() as service:
        await service.advance("s", whole[:10], 0, model="adaptive")
        before = await remembered(service)
        store_of(service).full = True
        for _ in range(2):
            refused = await service.http.post("/sessions/s/observations", json=chunk)
            assert refused.status_code == 503
        store_of(service).full = False
        np.testing.assert_array_equal(await remembered(service), before)
        answer = (await service.http.post("/sessions/s/observations", json=chunk)).json()
        assert not answer["replayed"]
        np.testing.assert_allclose(answer["predictions"], [step.prediction for step in expected], atol=1e-4)
        widths = np.subtract(answer["upper"], answer["lower"]) / 2
        np.testing.assert_allclose(widths, [step.widths[1] for step in expected], atol=1e-4)


@pytest.mark.parametrize("steps", [1, 5000])
async def test_a_failed_commit_of_a_long_chunk_moves_nothing(start, artifacts, steps):
    whole = series("sine", steps + 2)
    async with start() as service:
        await service.advance("a", whole[:2], 0)
        store_of(service).full = True
        assert (await service.advance("a", whole[2:], 2, horizon=3)).status == 503
        store_of(service).full = False
        reply = await service.advance("a", whole[2:], 2, horizon=3)
        equal(reply.numbers, one_pass(artifacts["sine"], whole)[2:])


async def test_a_failed_commit_undoes_reset_fork_create_and_delete(start_http, artifacts):
    whole = series("sine", 10)
    async with start_http() as service:
        await service.advance("a", whole[:4], 0)
        before = await service.session("a")
        store_of(service).full = True
        for response in (
            await service.http.post("/sessions/a/reset"),
            await service.http.post("/sessions/a/fork", json={"id": "b"}),
            await service.http.post("/sessions", json={"id": "c"}),
            await service.http.delete("/sessions/a"),
        ):
            assert check_problem(response)["status"] == 503
        store_of(service).full = False
        assert await service.session("a") == before
        assert [(await service.http.get(f"/sessions/{name}")).status_code for name in "bc"] == [404, 404]
        assert (await service.http.get("/sessions")).json()["total"] == 1
        equal((await service.advance("a", whole[4:], 4)).numbers, one_pass(artifacts["sine"], whole)[4:])


@pytest.mark.timeout(30)
async def test_an_expiry_that_cannot_be_written_is_refused_and_not_tried_for_ever(start, clock):
    async with start(idle_ttl_seconds=50) as service:
        await service.advance("a", [[0.1]], 0)
        clock.wait(51)
        store_of(service).full = True
        assert (await service.advance("a", [[0.1]], 1)).status == 503
        store_of(service).full = False
        assert (await service.advance("a", [[0.1]], 1)).status == 410


async def test_the_sweep_goes_on_after_any_error_of_the_store(start_http, clock, monkeypatch):
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.001)
    calls = []

    def failing(*_: Any) -> list[str]:
        calls.append(1)
        raise RuntimeError("nobody knows why")

    async with start_http(idle_ttl_seconds=50, resident_sessions=4, batch_sessions=4) as service:
        await service.advance("a", [[0.1]], 0)
        store = service.engine.residents.store
        with monkeypatch.context() as patch:
            patch.setattr(store, "expired", failing)
            await until(lambda: bool(calls))
        (sweep,) = (task for task in asyncio.all_tasks() if task.get_name() == "engine-sweep")
        clock.wait(51)
        await until(lambda: sweep.done() or len(service.engine.residents) == 0)
        assert len(service.engine.residents) == 0


async def test_upkeep_goes_on_after_any_error_of_the_store(start_http, monkeypatch):
    def failing() -> None:
        raise RuntimeError("nobody knows why")

    async with start_http() as service:
        engine = service.engine
        with monkeypatch.context() as patch:
            patch.setattr(engine.residents.store, "tend", failing)
            (outcome,) = await asyncio.gather(engine._upkeep.maintain_store(), return_exceptions=True)
            assert (outcome, len(engine.readiness_problems())) == (None, 1)
        await engine._upkeep.maintain_store()
        assert engine.readiness_problems() == []


async def test_the_sweep_goes_on_after_the_store_has_failed(start_http, clock, monkeypatch):
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.001)
    async with start_http(idle_ttl_seconds=50, resident_sessions=4, batch_sessions=4) as service:
        for i in range(12):
            await service.advance(f"s{i}", [[0.1]], 0)
        store_of(service).full = True
        clock.wait(51)
        swept = service.engine.residents.store.expired
        calls = []
        service.engine.residents.store.expired = lambda *bounds: calls.append(1) or swept(*bounds)
        await until(lambda: len(calls) > 3)
        store_of(service).full = False
        await until(lambda: len(service.engine.residents) == 0)
