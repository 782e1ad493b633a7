"""Sessions come, are listed, idle, expire, are deleted, and can be distinguished afterwards."""

import asyncio
import contextlib

import pytest

from app.engine import upkeep
from tests.helpers.faults import until
from tests.helpers.ways import check_problem
from tests.helpers.zoo import one_pass, series
from tests.promises.test_promises import equal

pytestmark = pytest.mark.anyio


async def test_a_session_is_created_with_its_model_and_where_it_is_found(start_http):
    async with start_http() as service:
        response = await service.http.post("/sessions", json={"id": "a", "model": "pair", "ttl_seconds": 60})
        assert (response.status_code, response.headers["location"]) == (201, "/sessions/a")
        shown = response.json()
        assert shown == (await service.http.get("/sessions/a")).json()
        assert (shown["model"], shown["position"], shown["ttl_seconds"]) == ("pair", 0, 60)
        assert shown["created"] == "2023-11-14T22:13:20.000Z"
        assert shown["expires"] == "2023-11-14T22:14:20.000Z"
        again = await service.http.post("/sessions", json={"id": "a"})
        assert check_problem(again)["type"] == "urn:carryover:session-exists"
        named_by_us = [(await service.http.post("/sessions")).json()["session"] for _ in range(3)]
        assert len(set(named_by_us)) == 3


async def test_a_created_session_takes_its_first_chunk_at_0(start, artifacts):
    whole = series("pair", 6)
    async with start() as service:
        epoch = (await service.http.post("/sessions", json={"id": "a", "model": "pair"})).json()["epoch"]
        equal((await service.advance("a", whole, 0, epoch)).numbers, one_pass(artifacts["pair"], whole))


async def test_a_session_shows_what_it_last_predicted(start_http):
    async with start_http() as service:
        reply = await service.advance("a", series("pair", 3), model="pair")
        shown = await service.session("a")
        assert shown["last_prediction"] == pytest.approx(reply.numbers[-1].tolist(), abs=1e-6)
        assert shown["observations_since_reset"] == 3


@pytest.mark.parametrize("at", [1, 5, 2**63 - 1])
async def test_a_session_that_was_never_seen_is_not_continued(start, at):
    async with start() as service:
        reply = await service.advance("a", [[0.1]], at)
        assert (reply.status, reply.problem["type"]) == (404, "urn:carryover:unknown-session")
        assert (await service.http.get("/sessions/a")).status_code == 404
        epoch = await service.advance("a", [[0.1]], 0, epoch="00000000000000ff")
        assert epoch.status == 404
        assert (await service.advance("a", [[0.1]], 0)).position == 1


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("why", ["expired", "deleted"])
async def test_a_stream_that_was_forgotten_is_not_silently_continued(start, clock, artifacts, why, resident):
    whole = series("sine", 9)
    async with start(resident_sessions=2, batch_sessions=2, idle_ttl_seconds=50) as service:
        await service.advance("a", whole[:4], 0)
        if not resident:
            for name in ("x", "y", "z"):
                await service.advance(name, [[0.1]], 0)
        if why == "expired":
            clock.wait(51)
        else:
            assert (await service.http.delete("/sessions/a")).status_code == 204
        for _ in range(2):
            reply = await service.advance("a", whole[4:], 4)
            assert (reply.status, reply.position, reply.problem["reason"]) == (410, 4, why)
        for response in (
            await service.http.get("/sessions/a"),
            await service.http.delete("/sessions/a"),
            await service.http.post("/sessions/a/reset"),
            await service.http.post("/sessions/a/fork", json={"id": "b"}),
            await service.http.get("/sessions/a/forecast", params={"steps": 1}),
        ):
            assert check_problem(response)["type"] == "urn:carryover:session-gone"
        equal((await service.advance("a", whole, 0)).numbers, one_pass(artifacts["sine"], whole))


async def test_every_use_puts_expiry_off_and_looking_does_not(start, clock):
    async with start(idle_ttl_seconds=50) as service:
        await service.advance("a", [[0.1]], 0)
        clock.wait(40)
        assert (await service.advance("a", [[0.1]], 1)).position == 2
        clock.wait(40)
        assert (await service.session("a"))["position"] == 2
        clock.wait(11)
        assert (await service.http.get("/sessions/a")).status_code == 410


async def test_an_idle_ttl_of_0_is_never(start_http, clock):
    async with start_http(idle_ttl_seconds=0) as service:
        await service.advance("a", [[0.1]], 0)
        assert (await service.session("a"))["expires"] is None
        clock.wait(1e9)
        assert (await service.session("a"))["position"] == 1


@pytest.mark.parametrize("resident", [64, 4])
async def test_the_sweep_expires_idle_sessions(start_http, clock, monkeypatch, resident):
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.001)
    async with start_http(resident_sessions=resident, batch_sessions=4, idle_ttl_seconds=50) as service:
        for i in range(20):
            await service.advance(f"s{i}", [[0.1]], 0)
        await service.http.post("/sessions", json={"id": "stays", "ttl_seconds": 1000})
        clock.wait(51)
        await until(lambda: len(service.engine.residents) == 1)
        assert (await service.session("stays"))["position"] == 0
        assert (await service.http.get("/sessions/s7")).status_code == 410


async def test_the_sweep_gives_way_to_traffic_in_a_slab_as_small_as_a_wave(start, clock, monkeypatch):
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.001)
    async with start(resident_sessions=4, batch_sessions=4, idle_ttl_seconds=50) as service:
        for i in range(12):
            await service.advance(f"old{i}", [[0.1]], 0)
        clock.wait(51)
        names = [f"new{i}" for i in range(12)]
        for at in range(5):
            replies = await asyncio.gather(*(service.advance(name, [[0.1]], at) for name in names))
            assert [reply.position for reply in replies] == [at + 1] * 12
        await until(lambda: len(service.engine.residents) == 12)


async def test_tombstones_are_bounded_in_number_and_time(start_http, clock):
    async with start_http(tombstones=3, tombstone_ttl_seconds=100) as service:
        for name in "abcde":
            await service.advance(name, [[0.1]], 0)
            await service.http.delete(f"/sessions/{name}")
        statuses = [(await service.advance(name, [[0.1]], 1)).status for name in "abcde"]
        assert statuses == [404, 404, 410, 410, 410]
        clock.wait(101)
        assert [(await service.advance(name, [[0.1]], 1)).status for name in "cde"] == [404] * 3


@pytest.mark.parametrize("name", ["a", "A.b_c:d-9", "x" * 128, "..."])
async def test_a_valid_session_id_is_one(start, name):
    async with start() as service:
        assert (await service.advance(name, [[0.1]], 0)).position == 1


@pytest.mark.parametrize("name", ["x" * 129, "a b", "a%20b", "é", "a%00b", "a@b", "%f0%9f"])
async def test_an_invalid_session_id_is_refused(start_http, name):
    async with start_http() as service:
        for response in (
            await service.http.post(f"/sessions/{name}/observations", json={"observations": [1]}),
            await service.http.get(f"/sessions/{name}"),
            await service.http.delete(f"/sessions/{name}"),
        ):
            assert check_problem(response)["status"] == 422
        response = await service.http.post("/sessions", json={"id": name})
        assert check_problem(response)["status"] == 422
        assert (await service.http.get("/sessions")).json()["total"] == 0


async def test_a_listing_by_cursor_is_complete_while_other_sessions_come_and_go(start_http):
    async with start_http(resident_sessions=8, batch_sessions=4) as service:
        lasting = [f"k{i:02}" for i in range(40)]
        for name in lasting:
            body = {"id": name, "model": "pair" if int(name[1:]) < 10 else "sine"}
            await service.http.post("/sessions", json=body)

        async def churn():
            for i in range(10_000):
                name = f"k{i % 40:02}x"
                await service.advance(name, [[0.1]])
                await service.http.delete(f"/sessions/{name}")

        churning = asyncio.ensure_future(churn())
        try:
            assert set(await listed(service, limit=7)) >= set(lasting)
            assert await listed(service, limit=3, model="pair") == lasting[:10]
        finally:
            churning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await churning


async def listed(service, **params) -> list[str]:
    """Every id, page by page; in order and none twice."""
    found: list[str] = []
    after = ""
    while True:
        page = (await service.http.get("/sessions", params={"after": after, **params})).json()
        found += [one["session"] for one in page["sessions"]]
        if page["next"] is None:
            assert found == sorted(set(found))
            return found
        after = page["next"]
