"""The alerts of a server by the client: each once and in order, though connections are lost."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from datetime import UTC, datetime
from typing import Any

import carryover
import pytest
from carryover import AsyncCarryover, Carryover, Event, effects, events
from carryover.retry import RetryPolicy

from app.engine.batch import AlertEvent
from app.session.names import tenant_of
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio

RETRY = RetryPolicy(20.0, max_pause=0.01)


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


@pytest.fixture(params=["blocking", "awaited"])
def kind(request) -> str:
    return request.param


class Reading:
    """What a client has read of the events of a service."""

    def __init__(self, service: Any) -> None:
        self.hub = service.app.state.alerts
        self.found: list[Event] = []
        self.error: Exception | None = None

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.found]

    async def connected(self) -> None:
        await until(lambda: any(not reader.is_closed for reader in self.hub._readers))

    def publish(self, *ids: str) -> None:
        self.hub.publish([alert(event_id) for event_id in ids])

    def disconnect(self) -> None:
        for reader in list(self.hub._readers):
            reader.close()

    async def until(self, *ids: str) -> None:
        await until(lambda: len(self.found) >= len(ids))
        assert self.ids == list(ids)


def alert(event_id: str) -> AlertEvent:
    event = {
        "event": "alert", "id": event_id, "session": "s", "position": 7, "time": "2026-11-27T08:00:00Z",
        "cause": "surprise 0.9, above 0.5",
    }  # fmt: skip
    return AlertEvent("s", None, event)


@pytest.fixture
def reading(start_hot, kind):
    """`async with reading(last_id) as (service, reading)`: a client reads meanwhile."""

    @asynccontextmanager
    async def begin(last_id: str | None = None, **settings: Any) -> AsyncIterator[tuple[Any, Reading]]:
        async with start_hot(**settings) as service:
            read = Reading(service)
            url = f"http://127.0.0.1:{service.port}"
            ended = threading.Event()

            def block() -> None:
                with Carryover(url, retry=RETRY) as client, closing(client.events(last_id)) as found:
                    for event in found:
                        read.found.append(event)
                        if ended.is_set():
                            return

            async def wait() -> None:
                async with (
                    AsyncCarryover(url, retry=RETRY) as client,
                    aclosing(client.events(last_id)) as found,
                ):
                    async for event in found:
                        read.found.append(event)

            task = asyncio.create_task(asyncio.to_thread(block) if kind == "blocking" else wait())
            try:
                await read.connected()
                yield service, read
            finally:
                if kind == "blocking":
                    ended.set()
                    read.publish("the last")  # a thread that waits cannot be cancelled
                    await task
                else:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            await until(lambda: not read.hub._readers)

    return begin


async def test_an_alert_is_an_event_with_its_cause(reading):
    async with reading() as (service, read):
        for name, limit in (("high", {"score_above": 0.5}), ("wide", {"outside": 0.9})):
            body = {"id": name, "model": "adaptive", "alert": limit}
            assert (await service.http.post("/sessions", json=body)).status_code == 201
            await service.advance(name, series("adaptive", 120), 0)
        await until(lambda: any(event.kind == "clear" and event.session == "wide" for event in read.found))
        first = read.found[0]
        assert (first.session, first.kind, first.raw["model"]) == ("high", "alert", "adaptive")
        assert first.cause == f"surprise {first.raw['score']:.6g}, above 0.5"
        assert first.time == datetime.fromtimestamp(1_700_000_000, UTC)
        assert first.id == f"alert-{first.raw['epoch']}-{first.position}"
        wide = next(event for event in read.found if event.session == "wide")
        assert wide.cause is not None
        assert wide.cause.endswith(" outside the 90 % interval")
        assert {event.cause for event in read.found if event.kind == "clear"} == {None}


async def test_an_event_that_is_raised_while_the_client_is_away_comes_once(reading):
    async with reading() as (_, read):
        read.disconnect()  # before the first event
        read.publish("a", "b")
        await read.until("a", "b")
        await read.connected()
        read.publish("c")
        await read.until("a", "b", "c")
        read.disconnect()
        read.publish("d")
        await read.until("a", "b", "c", "d")
        await read.connected()
        read.disconnect()  # and nothing has come
        await read.connected()
        read.publish("e")
        await read.until("a", "b", "c", "d", "e")


async def test_nothing_comes_twice_where_the_server_has_forgotten_the_last_and_workers_differ(reading):
    async with reading() as (_, read):
        read.hub._past = deque(maxlen=3)
        read.publish("a", "b", "c", "d")
        await read.until("a", "b", "c", "d")
        read.disconnect()
        read.publish("e")  # "a" is no longer known: all that are remembered come
        await read.until("a", "b", "c", "d", "e")
        await read.connected()
        read.disconnect()  # the next worker has had another one before the last
        read.hub._past = deque([alert("d"), alert("of the other worker"), alert("e")])
        await read.until("a", "b", "c", "d", "e", "of the other worker")


@pytest.mark.parametrize("kind", ["blocking"], indirect=True)
async def test_events_begin_behind_one_or_with_all_that_are_remembered(start_hot, kind):
    async with start_hot() as service:
        hub = service.app.state.alerts
        hub.publish([alert(event_id) for event_id in "abc"])

        def first(last_id: str, count: int) -> list[str]:
            url = f"http://127.0.0.1:{service.port}"
            with Carryover(url, retry=RETRY) as client, closing(client.events(last_id)) as found:
                return [next(found).id for _ in range(count)]

        assert await asyncio.to_thread(first, "a", 2) == ["b", "c"]
        assert await asyncio.to_thread(first, events.ALL_REMEMBERED, 3) == ["a", "b", "c"]
        await until(lambda: not hub._readers)


@pytest.mark.parametrize("kind", ["blocking"], indirect=True)
async def test_a_stream_without_a_key_is_refused_and_begins_behind_no_other_tenants_event(
    start_hot, kind, tmp_path
):
    keys = Keys(tmp_path)
    keys.add("ours")
    async with start_hot(api_keys_file=keys.path) as service:
        url, hub = f"http://127.0.0.1:{service.port}", service.app.state.alerts
        with Carryover(url, retry=RETRY) as client, pytest.raises(carryover.Unauthorized):
            await asyncio.to_thread(next, client.events())
        theirs = AlertEvent("theirs/s", None, alert("secret").event)
        assert tenant_of(theirs.session) == "theirs"
        hub.publish([theirs])
        async with service.http.stream("GET", "/events", headers=keys.headers("ours")) as stream:
            head = await anext(stream.aiter_text())
        assert head == ": connected\nid: 0\n\n"
        await until(lambda: not hub._readers)


def test_the_plan_pauses_and_goes_on_behind_an_event_that_it_has_until_its_time_is_over():
    clock = iter(range(100))
    policy = RetryPolicy(1.5, clock=lambda: float(next(clock)), draw=lambda low, high: 0.0)
    plan = events.events(None, policy)
    begin = next(plan)
    assert isinstance(begin, effects.Begin)
    assert begin.request.headers == {"accept": "text/event-stream"}
    assert plan.send(effects.Reply(200, b"")) is effects.MORE
    assert plan.send(b": connected\nid: 0") is effects.MORE
    emitted = plan.send(
        b'\n\nid: x\nevent: clear\ndata: {"event":"clear","id":"x","session":"s","position":1,'
        b'"time":"2026-11-27T08:00:00Z"}\n\n'
    )
    assert (emitted.value.kind, emitted.value.cause) == ("clear", None)
    assert next(plan) is effects.MORE
    lost = carryover.Unreachable("lost")
    assert plan.throw(lost) is effects.CLOSE
    for _ in range(2):  # the server is away for two seconds
        assert isinstance(next(plan), effects.Sleep)
        assert next(plan).request.headers["last-event-id"] == "0"
        assert plan.throw(lost) is effects.CLOSE
    with pytest.raises(carryover.Unreachable, match="lost"):
        next(plan)
