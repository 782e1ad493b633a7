"""A watcher of a session sees in order what was applied to it by any client, and moves nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import websockets
from numpy.testing import assert_allclose

from app.protocols import watch_socket
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> str:
    return "memory"


@asynccontextmanager
async def watch(
    service: Any, session: str = "s", headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    """A watching socket, and the first message that the server sent on it."""
    before = len(service.engine.watchers)
    url = f"ws://127.0.0.1:{service.port}/sessions/{session}/watch"
    async with websockets.connect(url, additional_headers=headers) as socket:
        hello = json.loads(await socket.recv())
        await until(lambda: len(service.engine.watchers) > before)
        yield socket, hello


async def receive_events(socket: Any, count: int) -> list[dict[str, Any]]:
    """The next `count` events."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            events += json.loads(await socket.recv())["events"]
    return events


async def post(service: Any, path: str, body: Any = None) -> Any:
    answer = await service.http.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def test_a_watcher_sees_the_chunks_that_others_send_with_what_they_are_answered(start_hot):
    async with start_hot() as service:
        first = await post(service, "/sessions/s/observations", {"observations": [0.1, 0.2]})
        async with watch(service) as (socket, hello):
            assert (hello["watching"], hello["position"], hello["epoch"]) == ("s", 2, first["epoch"])
            past = hello["history"]
            assert (past["from"], past["positions"]) == (0, [1, 2])
            assert_allclose(past["observations"], [[0.1], [0.2]], rtol=1e-6)
            assert np.ravel(past["predictions"]).tolist() == first["predictions"]
            answers = [
                await post(service, "/sessions/s/observations", {"observations": [[x], [x + 0.1]]})
                for x in (0.3, 0.5, 0.7)
            ]
            await post(service, "/sessions/other/observations", {"observations": [0.9]})
            events = await receive_events(socket, 3)
        assert [event["event"] for event in events] == ["chunk"] * 3
        assert [event["position"] for event in events] == [4, 6, 8]
        assert_allclose(np.ravel([event["observations"] for event in events]), np.linspace(0.3, 0.8, 6))
        assert [event["predictions"] for event in events] == [answer["predictions"] for answer in answers]


async def test_a_chunk_among_many_is_seen_as_if_it_had_come_alone(start_hot):
    async with start_hot() as service, watch(service, "b") as (socket, hello):
        assert hello["position"] is None
        body = {"sessions": ["a", "b", "c"], "observations": [[[0.1]], [[0.2], [0.3]], [[0.4]]]}
        payload = await post(service, "/observations", body)
        (event,) = await receive_events(socket, 1)
        assert (event["event"], event["position"]) == ("chunk", 2)
        assert_allclose(event["observations"], [[0.2], [0.3]], rtol=1e-6)
        assert event["predictions"] == payload["predictions"][1]


async def test_a_long_chunk_is_seen_once_it_is_whole(start_hot):
    async with start_hot() as service, watch(service) as (socket, _):
        await post(service, "/sessions/s/observations", {"observations": [0.0] * 3000, "horizon": 2})
        (event,) = await receive_events(socket, 1)
        assert (len(event["observations"]), len(event["predictions"]), event["position"]) == (
            3000,
            3000,
            3000,
        )


async def test_a_watcher_sees_a_session_made_reset_forked_and_deleted(start_hot):
    async with start_hot() as service, watch(service) as (socket, _), watch(service, "twin") as (twin, _):
        await post(service, "/sessions", {"id": "s"})
        await post(service, "/sessions/s/observations", {"observations": [0.1]})
        await post(service, "/sessions/s/fork", {"id": "twin"})
        await post(service, "/sessions/s/reset")
        await service.http.delete("/sessions/s")
        events = await receive_events(socket, 4)
        assert [event["event"] for event in events] == ["created", "chunk", "reset", "gone"]
        assert events[-1]["why"] == "deleted"
        assert [event["event"] for event in await receive_events(twin, 1)] == ["created"]


async def test_a_watcher_is_not_sent_refused_or_replayed_chunks(start_hot):
    async with start_hot() as service, watch(service) as (socket, _):
        body = {"observations": [[0.1]], "at": 0}
        await post(service, "/sessions/s/observations", body)
        assert (await post(service, "/sessions/s/observations", body))["replayed"]
        refused = await service.http.post("/sessions/s/observations", json={"observations": [0.2], "at": 7})
        assert refused.status_code == 409
        await post(service, "/sessions/s/reset")
        assert [event["event"] for event in await receive_events(socket, 2)] == ["chunk", "reset"]


async def test_events_for_a_slow_watcher_are_bounded_and_dropped_observations_are_counted(
    start_hot, monkeypatch
):
    monkeypatch.setattr(watch_socket, "MAX_OBSERVATIONS", 5)
    async with start_hot() as service, watch(service) as (socket, _):
        (watcher,) = service.engine.watchers._watchers["s"]
        watcher.pause_writing()
        for x in range(4):
            await post(service, "/sessions/s/observations", {"observations": [[x / 10], [x / 10]]})
        watcher.resume_writing()
        async with asyncio.timeout(20):
            payload = json.loads(await socket.recv())
        assert payload["missed"] == 4
        assert [event["position"] for event in payload["events"]] == [6, 8]


async def test_a_watch_takes_no_messages_and_leaves_nothing_behind(start_hot):
    async with start_hot() as service:
        async with watch(service) as (socket, _):
            await socket.send("{}")
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await receive_events(socket, 1)
            assert closed.value.rcvd.code == 1008
        await until(lambda: not service.engine.watchers)
        assert len(service.engine.watchers) == 0


async def test_a_watch_shows_a_tenant_its_own_session_and_no_other_tenants_of_that_id(start_hot, tmp_path):
    keys = Keys(tmp_path)
    for name in ("acme", "other"):
        keys.add(name)
    async with (
        start_hot(api_keys_file=keys.path) as service,
        watch(service, headers=keys.headers("acme")) as (socket, hello),
    ):
        assert (hello["watching"], hello["position"]) == ("s", None)
        for name, x in (("other", 0.9), ("acme", 0.1)):
            body, headers = {"observations": [[x]]}, keys.headers(name)
            payload = await service.http.post("/sessions/s/observations", json=body, headers=headers)
            assert payload.status_code == 200
        (event,) = await receive_events(socket, 1)
        assert_allclose(event["observations"], [[0.1]], rtol=1e-6)


async def test_a_watch_ends_with_its_key(start_hot, tmp_path):
    keys = Keys(tmp_path)
    keys.add("acme", role="read")
    keys.add("other")
    async with start_hot(api_keys_file=keys.path) as service:
        async with watch(service, headers=keys.headers("acme")) as (socket, _):
            keys.remove("acme")
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await receive_events(socket, 1)
            assert closed.value.rcvd.code == 1008
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with watch(service, headers=keys.headers("acme")):
                pass
        assert refused.value.response.status_code == 401


async def test_a_page_of_sessions_can_be_had_in_detail_and_by_the_beginning_of_their_ids(start_http):
    async with start_http() as service:
        for session in ("pumo-9", "pump", "pump-1", "pump-2", "pumq"):
            await post(service, f"/sessions/{session}/observations", {"observations": [0.1]})
        payload = (await service.http.get("/sessions", params={"prefix": "pump", "detail": True})).json()
        assert [listed["session"] for listed in payload["sessions"]] == ["pump", "pump-1", "pump-2"]
        assert payload["total"] == 5
        assert payload["sessions"][1] == (await service.http.get("/sessions/pump-1")).json()
        rest = await service.http.get("/sessions", params={"prefix": "pump", "after": "pump", "limit": 1})
        assert rest.json()["sessions"] == [{"session": "pump-1", "model": "sine"}]


async def test_a_prefix_that_no_id_can_have_is_refused(start_http):
    async with start_http() as service:
        for prefix in ("a/b", "\0", "x" * 129):
            assert (await service.http.get("/sessions", params={"prefix": prefix})).status_code == 422


async def test_a_watcher_sees_the_alerts_of_its_session_behind_their_chunk(start_hot):
    rows = series("adaptive", 120)
    alert = {"score_above": 0.5, "clear_after": 2}
    async with start_hot() as service:
        for name in ("s", "other"):
            await post(service, "/sessions", {"id": name, "model": "adaptive", "alert": alert})
        async with watch(service) as (socket, _):
            for name in ("other", "s"):
                await post(service, f"/sessions/{name}/observations", {"observations": rows.tolist()})
            sent = [found.event for found in service.app.state.alerts._past if found.session == "s"]
            assert {event["event"] for event in sent} == {"alert", "clear"}
            events = await receive_events(socket, 1 + len(sent))
        assert events[0]["event"] == "chunk"
        assert events[1:] == sent
