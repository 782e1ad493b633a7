"""Every limit is a setting, is refused clearly, and nobody else notices."""

import asyncio
import json
import time
import tracemalloc

import numpy as np
import pytest

from tests.helpers.faults import held, queued, until
from tests.helpers.ways import AsgiRoute, HotRoute, HttpRoute, TextSocket, check_problem
from tests.helpers.zoo import one_pass, series
from tests.promises.test_promises import equal

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)
over_http = pytest.mark.parametrize("way", [AsgiRoute, HttpRoute, HotRoute], indirect=True)


async def test_a_chunk_over_the_limit_is_413_and_one_at_it_is_applied(start):
    async with start(chunk_observations=50) as service:
        reply = await service.advance("a", series("sine", 51), 0)
        assert (reply.status, reply.problem["limit"]) == (413, 50)
        assert (await service.advance("a", series("sine", 50), 0)).position == 50


@in_memory
@over_http
async def test_a_body_over_the_limit_is_413_by_its_length_and_as_it_comes_in(start):
    async def trickle():
        for _ in range(100):
            yield b" " * 1000

    async with start(body_bytes=10_000) as service:
        await service.advance("a", [[0.5]], 0)
        for path in ("/sessions/a/observations", "/sessions", "/sessions/a/reset"):
            for content in (b" " * 10_001, trickle()):
                response = await service.http.post(path, content=content)
                assert (response.status_code, check_problem(response)["limit"]) == (413, 10_000)
        assert (await service.advance("a", [[0.5]], 1)).position == 2


@in_memory
@pytest.mark.parametrize("way", [HotRoute, HttpRoute, TextSocket], indirect=True)
async def test_a_body_of_a_million_steps_is_refused_quickly_in_bounded_memory(start):
    """Peers took 1.6 GB and 3 to 10 s for this one, and held everybody up."""
    body = b'{"observations": [' + b"[0.123456]," * 999_999 + b"[0.1]]}"
    async with start(body_bytes=16 * 2**20) as service:
        await service.advance("a", [[0.5]], 0)
        tracemalloc.start()
        began = time.process_time()
        reply = await service.raw("a", body)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (reply.status, reply.problem["limit"]) == (413, 10_000)
        assert peak < 8 * len(body)  # the body itself, on both sides of the socket, in this one process
        assert seconds < 2
        assert (await service.advance("a", [[0.5]], 1)).position == 2


@in_memory
async def test_sessions_over_the_limit_are_503_with_retry_after_and_room_is_made_by_deleting(start):
    async with start(max_sessions=3) as service:
        for name in "abc":
            await service.advance(name, [[0.5]], 0)
        reply = await service.advance("d", [[0.5]], 0)
        assert (reply.status, reply.problem["type"]) == (503, "urn:carryover:too-many-sessions")
        for path, body in (("/sessions", {"id": "d"}), ("/sessions/a/fork", {"id": "d"})):
            assert check_problem(await service.http.post(path, json=body))["status"] == 503
        assert (await service.advance("a", [[0.5]], 1)).position == 2
        await service.http.delete("/sessions/c")
        assert (await service.advance("d", [[0.5]], 0)).position == 1


@in_memory
async def test_many_first_chunks_in_one_wave_do_not_pass_the_limit_on_sessions(start_http):
    async with start_http(max_sessions=3) as service:
        replies = await asyncio.gather(*(service.advance(f"s{i}", [[0.5]], 0) for i in range(10)))
        assert sorted(reply.status for reply in replies) == [200] * 3 + [503] * 7
        assert len(service.engine.residents) == 3


@in_memory
@over_http
async def test_jobs_over_the_limit_are_503_with_retry_after_and_the_accepted_are_done(start):
    names = [f"s{i}" for i in range(8)]
    async with (
        start(queue_jobs=5, batch_sessions=5, bulk_sessions=5) as service,
        held(service.engine) as release,
    ):
        accepted = [asyncio.ensure_future(service.advance(name, [[0.5]], 0)) for name in names[:5]]
        await queued(service.engine, names[:5])
        for name in names[5:]:
            reply = await service.advance(name, [[0.5]], 0)
            assert (reply.status, reply.problem["type"]) == (503, "urn:carryover:overloaded")
        release.set()
        assert [(await reply).status for reply in accepted] == [200] * 5
        assert (await service.advance("s7", [[0.5]], 0)).status == 200


@in_memory
@over_http
async def test_bytes_that_wait_are_bound(start):
    async with start(queue_bytes=1024) as service, held(service.engine) as release:
        accepted = asyncio.ensure_future(service.advance("a", series("sine", 300), 0))
        await queued(service.engine, "a")
        assert (await service.advance("b", [[0.5]], 0)).status == 503
        release.set()
        assert (await accepted).status == 200
        assert (await service.advance("b", [[0.5]], 0)).status == 200


async def test_no_more_sessions_are_resident_than_the_limit_and_none_is_forgotten(start, artifacts):
    async with start(resident_sessions=4, batch_sessions=3) as service:
        whole = series("sine", 3)
        for at in range(3):
            for i in range(10):
                reply = await service.advance(f"s{i}", whole[at : at + 1], at)
                equal(reply.numbers, one_pass(artifacts["sine"], whole)[at : at + 1])
                assert service.engine.residents.resident <= 4


@in_memory
async def test_a_forecast_over_the_limit_is_refused(start):
    async with start(forecast_steps=20) as service:
        reply = await service.advance("a", [[0.5]], 0, horizon=21)
        assert (reply.status, reply.problem["field"]) == (422, "horizon")
        assert (await service.advance("a", [[0.5]], 0, horizon=20)).forecast.shape == (20, 1)
        problem = check_problem(await service.http.get("/sessions/a/forecast", params={"steps": 21}))
        assert (problem["status"], problem["limit"]) == (422, 20)


@pytest.mark.parametrize("way", [AsgiRoute, HotRoute, TextSocket], indirect=True)
async def test_a_long_chunk_is_sliced_and_a_short_neighbour_answered_long_before(start, artifacts):
    long, short = series("pair", 10_000), series("pair", 30, seed=1)
    async with start(resident_sessions=4, batch_sessions=4) as service:
        await service.advance("short", short[:1], 0, model="pair")
        answered: list[str] = []

        async def send_long():
            reply = await service.advance("long", long, 0, model="pair")  # it creates the session, too
            answered.append("long")
            return reply

        sending = asyncio.ensure_future(send_long())
        await taken_up(service.engine, "long")
        for at in range(1, 30):
            reply = await service.advance("short", short[at : at + 1], at)
            equal(reply.numbers, one_pass(artifacts["pair"], short)[at : at + 1])
            answered.append("short")
            if at == 1:
                assert answered == ["short"], "the neighbour waited for the long chunk"
        reply = await sending
        np.testing.assert_allclose(reply.numbers, one_pass(artifacts["pair"], long), atol=2e-6)
        assert (await service.advance("long", long, 0)).replayed
        assert (await service.session("long"))["position"] == 10_000


async def taken_up(engine, session: str) -> None:
    """Wait until a chunk of this session waits or is under way."""
    await until(
        lambda: any(
            session in one.sessions for one in (*engine._backlog.queue.waiting_jobs(), *engine._backlog.slow)
        )
    )


@in_memory
async def test_chunks_for_a_session_whose_long_chunk_is_under_way_keep_their_order(start, artifacts):
    whole = series("sine", 6010)
    async with start() as service:
        await service.advance("a", whole[:1], 0)
        first = asyncio.ensure_future(service.advance("a", whole[1:6001], 1))
        await taken_up(service.engine, "a")
        rest = [
            asyncio.ensure_future(service.advance("a", whole[at : at + 3], at)) for at in (6001, 6004, 6007)
        ]
        looked = await service.session("a")
        got = np.concatenate([(await one).numbers for one in (first, *rest)])
        equal(got, one_pass(artifacts["sine"], whole)[1:])
        assert looked["position"] in (1, 6001, 6004, 6007, 6010)


@in_memory
async def test_a_long_forecast_delays_no_other_client(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.5]], 0)
        await service.advance("b", [[0.5]], 0)
        rolling = asyncio.ensure_future(service.http.get("/sessions/a/forecast", params={"steps": 10_000}))
        await taken_up(service.engine, "a")
        assert (await service.advance("b", [[0.5]], 1)).position == 2
        assert not rolling.done()
        assert len(json.loads((await rolling).content)["forecast"]) == 10_000


@in_memory
async def test_a_client_that_hangs_up_in_a_long_chunk_changes_nothing_for_it(start_hot, artifacts):
    whole = series("sine", 5003)
    async with start_hot() as service:
        posting = asyncio.ensure_future(service.advance("a", whole[:5000], 0))
        await taken_up(service.engine, "a")
        posting.cancel()
        reply = await service.advance("a", whole[:5000], 0)
        assert reply.status == 200
        equal(
            (await service.advance("a", whole[5000:], 5000)).numbers,
            one_pass(artifacts["sine"], whole)[5000:],
        )
