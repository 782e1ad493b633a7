"""An alert is sent once for each crossing, behind the commit, whatever is sent again and wherever it runs."""

from __future__ import annotations

import asyncio
import base64
import errno
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import main, server
from app.alerts import hub as hub_module
from app.alerts import webhooks as webhooks_module
from app.alerts.alerts_file import AlertsFile, Target, read_alerts_file
from app.alerts.hub import AlertHub
from app.alerts.webhooks import Webhooks
from app.config import Settings
from app.engine.batch import AlertEvent
from app.errors import ConfigError, StoreFailed, Unprocessable
from app.observability.metrics import Metrics
from models.forecaster import Forecaster
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.helpers.services import Start, starter
from tests.helpers.two_workers import owned, two_workers
from tests.helpers.ways import AsgiRoute, BulkBinary, HotRoute, HttpRoute, Way, check_problem
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio
LIMIT, CALM = 0.5, 2
ALERT = {"score_above": LIMIT, "clear_after": CALM}
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
STEPS = 120


def crossings(scores: Any, limit: float = LIMIT, calm: int = CALM) -> list[tuple[str, int]]:
    """What should be sent of these scores: each crossing, and the position where it is over."""
    found: list[tuple[str, int]] = []
    since = None  # of the last crossing
    for position, score in enumerate(scores, 1):
        if score > limit:
            if since is None:
                found.append(("alert", position))
            since = 0
        elif since is not None and not np.isnan(score):
            since += 1
            if since == calm:
                found.append(("clear", position))
                since = None
    return found


@pytest.fixture(scope="module")
def whole() -> Any:
    return series("adaptive", STEPS)


@pytest.fixture(scope="module")
def expected(artifacts, whole) -> list[tuple[str, int]]:
    forecaster = Forecaster(artifacts["adaptive"])
    passed = forecaster.observe(whole, np.array([STEPS]), forecaster.new_carry[None])
    found = crossings(passed.scores.scores)
    assert len(found) > 8  # or the tests below show little
    return found


def sent(service: Way, session: str | None = None) -> list[tuple[str, int]]:
    """What has left the engine."""
    return [
        (alert.event["event"], alert.event["position"])
        for alert in service.app.state.alerts._past
        if session in (None, alert.session)
    ]


async def create(service: Way, session: str = "s", **body: Any) -> None:
    body = {"id": session, "model": "adaptive", "alert": ALERT} | body
    response = await service.http.post("/sessions", json=body)
    assert response.status_code == 201, response.text


@pytest.fixture(params=["memory", "through", "sqlite", "redis"])
def store(request) -> str:
    if request.param == "redis":
        request.getfixturevalue("redis_url")
    return request.param


async def test_every_crossing_is_sent_once_though_each_chunk_is_sent_twice(start, whole, expected):
    cuts = [1, 7, 1, 1, 20, 1, 9, 30, 5, 45]
    async with start(resident_sessions=2, batch_sessions=2, bulk_sessions=2) as service:
        await create(service)
        at = 0
        for size in cuts:
            for _ in range(2):
                reply = await service.advance("s", whole[at : at + size], at)
                assert reply.status == 200
            at += size
            for name in ("x", "y", "z"):  # the session leaves memory, and comes back
                await service.advance(name, [[0.1]], model="sine")
        assert sent(service) == expected
        shown = await service.session("s")
        limits = {name: value for name, value in shown["alert"].items() if value is not None}
        assert limits == {"score_above": LIMIT, "clear_after": CALM}
        assert shown["alert_raised"] == (expected[-1][0] == "alert")


@pytest.mark.parametrize("way", [BulkBinary], ids=lambda way: way.name)
@pytest.mark.parametrize("store", ["through", "sqlite"])
async def test_what_was_not_committed_is_not_sent(start, whole, expected, monkeypatch):
    async with start() as service:
        await create(service)
        engine = service.engine
        commit, failing = engine.residents.store.commit, True

        def fail(*_: Any) -> Any:
            if failing:
                raise StoreFailed("the disk is full")
            return commit(*_)

        monkeypatch.setattr(engine.residents.store, "commit", fail)
        assert (await service.advance("s", whole, 0)).status == 503
        assert sent(service) == []
        assert not (await service.session("s"))["alert_raised"]
        failing = False
        assert (await service.advance("s", whole, 0)).status == 200
        assert sent(service) == expected


@pytest.mark.parametrize("way", [AsgiRoute], ids=lambda way: way.name)
@pytest.mark.parametrize("store", ["sqlite", "redis"], indirect=True)
async def test_an_alert_that_is_raised_stays_so_over_a_restart(start, whole, expected):
    position = next(position for kind, position in expected if kind == "alert")
    async with start() as service:
        await create(service)
        await service.advance("s", whole[:position], 0)
        assert sent(service) == expected[: len(sent(service))] != []
        first = sent(service)
    async with start() as service:
        await service.advance("s", whole[:position], 0)
        assert sent(service) == []  # the retry of what was sent before
        await service.advance("s", whole[position:], position)
        assert first + sent(service) == expected


@pytest.mark.parametrize("way", [AsgiRoute], ids=lambda way: way.name)
@pytest.mark.parametrize("store", ["redis"], indirect=True)
async def test_a_chunk_that_reaches_two_replicas_sends_one_alert(start, whole, expected):
    position = expected[0][1]
    async with start() as here, start() as there:
        await create(here)
        await here.advance("s", whole[: position - 1], 0)
        for service in (there, here):  # the second has an older copy of the session
            assert (await service.advance("s", whole[position - 1 : position], position - 1)).status == 200
        assert here.engine.metrics.fenced == 1
        assert sent(there) == expected[:1]
        assert sent(here) == []
        await here.advance("s", whole[position:], position)
        assert sent(there) + sent(here) == expected


@pytest.fixture
def begin(zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """A server over loopback, over memory."""
    return starter(HotRoute, "memory", zoo_folder, clock, tmp_path, monkeypatch)


async def test_intervals_resets_forks_and_changes(begin, whole, artifacts):
    forecaster = Forecaster(artifacts["adaptive"])
    scores = forecaster.observe(whole, np.array([STEPS]), forecaster.new_carry[None]).scores
    level = forecaster.learning.levels[0]
    missed = scores.missed[:, 0].any(axis=1)
    async with begin() as service:
        await create(service, "wide", alert={"outside": level})
        await service.advance("wide", whole, 0)
        assert sent(service) == crossings(missed.astype(float), 0.5, 1) != []
        raised = 1 + next(i for i in range(STEPS) if scores.scores[i] > LIMIT)
        for name in ("reset", "changed", "forked"):
            await create(service, name)
            await service.advance(name, whole[:raised], 0)
            assert (await service.session(name))["alert_raised"]
        await service.http.post("/sessions/reset/reset")
        await service.http.patch("/sessions/changed", json={"alert": None})
        await service.http.post("/sessions/forked/fork", json={"id": "copy"})
        for name in ("reset", "changed", "copy"):
            assert not (await service.session(name))["alert_raised"]
        assert (await service.session("copy"))["alert"]["score_above"] == LIMIT
        assert (await service.session("changed"))["alert"] is None
        state = (await service.http.get("/sessions/forked/state")).content
        await service.http.put("/sessions/moved/state", content=state)
        assert (await service.session("moved"))["alert"]["clear_after"] == CALM
        assert not (await service.session("moved"))["alert_raised"]


@pytest.mark.parametrize(
    ("alert", "word"),
    [
        ({}, "needs score_above or outside"),
        ({"score_above": 1.0}, "score_above"),
        ({"outside": 0.77}, "intervals of"),
        ({"score_above": 0.9, "clear_after": 0}, "clear_after"),
        ({"score_above": 0.9, "webhook": "unknown"}, "no webhook 'unknown'"),
        ({"score_above": 0.9, "webhook": "http://169.254.169.254/"}, "no webhook"),
        ({"score_above": 0.9, "url": "http://127.0.0.1/"}, "url"),
    ],
)
async def test_an_alert_that_cannot_be_is_refused(begin, alert, word):
    async with begin() as service:
        await create(service, alert=None)
        for response in (
            await service.http.post("/sessions", json={"id": "b", "model": "adaptive", "alert": alert}),
            await service.http.patch("/sessions/s", json={"alert": alert}),
        ):
            problem = check_problem(response)
            assert problem["status"] == 422
            assert word in problem["detail"]
            assert problem["field"].startswith("alert"), "a form shows the refusal at the field"
        refused = await service.http.post("/sessions", json={"model": "sine", "alert": ALERT})
        assert "keeps no surprise" in check_problem(refused)["detail"]


# The readers of `/events`.


async def lines(
    service: Way, count: int, heartbeat: asyncio.Event | None = None, **headers: str
) -> list[dict[str, Any]]:
    """The first events of a stream. Sets `heartbeat` when one comes."""
    found: list[dict[str, Any]] = []
    async with service.http.stream("GET", "/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line == ": heartbeat" and heartbeat is not None:
                heartbeat.set()
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    return found
    return found


async def test_events_are_streamed_and_continued_behind_the_last(begin, whole, expected, monkeypatch):
    monkeypatch.setattr("app.api.routes.events.HEARTBEAT_SECONDS", 0.02)
    async with begin() as service:
        await create(service, labels={"site": "north"})
        heartbeat = asyncio.Event()
        reading = asyncio.create_task(lines(service, len(expected), heartbeat))
        await heartbeat.wait()
        await service.advance("s", whole, 0)
        found = await reading
        assert [(event["event"], event["position"]) for event in found] == expected
        assert found[0]["labels"] == {"site": "north"}
        assert len({event["id"] for event in found}) == len(found)
        again = await lines(service, len(expected) - 3, **{"last-event-id": found[2]["id"]})
        assert again == found[3:]
        forgotten = await lines(service, len(expected), **{"last-event-id": "of-long-ago"})
        assert forgotten == found
        await until(lambda: not service.app.state.alerts._readers)


async def test_a_tenant_reads_its_own_alerts_and_a_removed_key_no_more(begin, tmp_path, whole, expected):
    keys = Keys(tmp_path)
    for name, role in (("ours", "stream"), ("theirs", "stream"), ("boss", "admin")):
        keys.add(name, role)
    async with begin(api_keys_file=keys.path) as service:
        readers = service.app.state.alerts._readers
        reading = asyncio.create_task(lines(service, 10**6, **keys.headers("ours")))
        everything = asyncio.create_task(
            lines(service, 10**6, **keys.headers("boss", **{"carryover-tenant": "*"}))
        )
        await until(lambda: len(readers) == 2)
        for tenant in ("theirs", "ours"):
            service.http.headers = keys.headers(tenant)
            await create(service, tenant)
            await service.advance(tenant, whole, 0) if tenant == "ours" else await service.http.post(
                f"/sessions/{tenant}/observations", json={"observations": whole.tolist()}
            )
        keys.remove("ours")
        keys.remove("boss")
        service.app.state.authenticator.refresh()
        assert {event["session"] for event in await reading} == {"ours"}
        seen = await everything
        assert {(event["tenant"], event["session"]) for event in seen} == {
            ("ours", "ours"),
            ("theirs", "theirs"),
        }
        assert len(seen) == 2 * len(expected)
        assert not readers


async def test_readers_that_come_at_once_are_no_more_than_a_key_may_have(begin, tmp_path):
    keys = Keys(tmp_path)
    keys.add("one", sockets=1)
    token = keys.headers("one")["authorization"]
    request = f"GET /events HTTP/1.1\r\nhost: localhost\r\nauthorization: {token}\r\n\r\n".encode()
    async with begin(api_keys_file=keys.path) as service:
        connections = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(4)]
        for _, writer in connections:
            writer.write(request)
        statuses = [(await reader.readline()).split()[1] for reader, _ in connections]
        for _, writer in connections:
            writer.close()
        await until(lambda: not service.app.state.authenticator.sockets)
        assert sorted(statuses) == [b"200", b"429", b"429", b"429"]


async def test_a_reader_that_does_not_read_is_disconnected(monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_UNREAD", 3)
    hub = AlertHub(Webhooks(AlertsFile(), Metrics()), Metrics())
    slow, other = hub.open("a/"), hub.open("b/")
    for i in range(4):
        hub.publish([AlertEvent("a/s", None, {"event": "alert", "id": str(i)})])
    assert slow.is_closed
    assert not other.is_closed
    assert await slow.wait(0.01) == []


async def test_a_reader_that_comes_back_late_gets_all_that_is_remembered_and_what_comes(monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_UNREAD", 3)
    hub = AlertHub(Webhooks(AlertsFile(), Metrics()), Metrics())

    def publish(first: int, end: int) -> None:
        hub.publish([AlertEvent("s", None, {"event": "alert", "id": str(i)}) for i in range(first, end)])

    publish(0, 10)
    reader = hub.open("", "0")
    publish(10, 12)  # before it has fetched anything
    assert [alert.event["id"] for alert in await reader.wait(0.01)] == [str(i) for i in range(1, 12)]
    publish(12, 16)
    assert reader.is_closed


async def test_readers_of_either_worker_get_the_alerts_of_both(
    tmp_path, zoo_folder, monkeypatch, whole, expected
):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    here, there = owned(0, 1)[0], owned(1, 1)[0]
    async with two_workers(HttpRoute, tmp_path, zoo_folder) as both:
        readings = [asyncio.create_task(lines(service, 2 * len(expected))) for service in both.ways]
        await until(lambda: all(service.app.state.alerts._readers for service in both.ways))
        for name in (here, there):
            await create(both.ways[0], name)
            assert (await both.ways[0].advance(name, whole, 0)).status == 200
        for found in await asyncio.gather(*readings):
            for name in (here, there):
                own = [(event["event"], event["position"]) for event in found if event["session"] == name]
                assert own == expected


# Webhooks.


class Receiver:
    """A webhook: answers each request with the next of these statuses, and then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                pairs = (line.partition(": ")[::2] for line in head.decode().split("\r\n")[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
                status = self.statuses.pop(0) if self.statuses else 200
                writer.write(b"HTTP/1.1 %d x\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n" % status)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[str]:
    async with await asyncio.start_server(receiver.answer, "127.0.0.1", 0) as serving:
        yield f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}/hook"


def write(folder: Path, content: Any) -> Path:
    path = folder / "alerts.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_with_an_alert_for_sessions_that_keep_no_scores_is_refused_by_name(zoo_folder, tmp_path):
    path = write(tmp_path, {"models": {"sine": ALERT}})
    with pytest.raises(ConfigError, match="the sessions of 'sine' keep no surprise"):
        main.create_app(Settings(models=(zoo_folder,), default_model="sine", alerts_file=path))


async def test_webhooks_get_signed_alerts_and_failures_are_sent_again_with_the_same_id(
    begin, tmp_path, whole, expected, monkeypatch
):
    monkeypatch.setattr(webhooks_module, "FIRST_PAUSE", 0.0)
    receiver = Receiver(500, 302, 429)
    async with listening(receiver) as url:
        file = {
            "webhooks": {"ops": {"url": url, "secret": SECRET}},
            "models": {"adaptive": ALERT | {"webhook": "ops"}},
        }
        async with begin(alerts_file=write(tmp_path, file)) as service:
            await service.advance("s", whole, model="adaptive")  # its model's alert
            await until(lambda: service.engine.metrics.webhooks_sent == len(expected))
            assert service.engine.metrics.webhooks_failed == 3
            assert service.engine.metrics.webhooks_dropped == 0
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert len(set(ids[:4])) == 1
    delivered = receiver.requests[3:]
    got = []
    for headers, body in delivered:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.digest(b"k" * 24, signed, sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{signature}"
        content = json.loads(body)
        assert content["type"] == f"session.{content['data']['event']}"
        got.append((content["data"]["event"], content["data"]["position"]))
    assert got == expected


async def test_a_webhook_that_hangs_delays_no_chunk_and_its_queue_is_bounded(
    begin, tmp_path, whole, expected, monkeypatch
):
    monkeypatch.setattr(webhooks_module, "MAX_WAITING", 2)
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as serving:
        port = serving.sockets[0].getsockname()[1]
        file = {"webhooks": {"ops": {"url": f"http://127.0.0.1:{port}", "secret": SECRET}}}
        monkeypatch.setattr("app.main.WEBHOOKS_SHARE", 0.001)
        async with begin(alerts_file=write(tmp_path, file)) as service:
            await create(service, alert=ALERT | {"webhook": "ops"})
            assert (await service.advance("s", whole, 0)).position == STEPS
            await asked.wait()
            assert service.engine.metrics.webhooks_dropped == len(expected) - 2
            page = (await service.http.get("/metrics")).text
            assert f"carryover_webhooks_dropped_total {len(expected) - 2}" in page
            assert f"carryover_alerts_total {sum(kind == 'alert' for kind, _ in expected)}" in page


async def test_any_error_of_a_delivery_is_an_attempt_that_failed(
    begin, tmp_path, whole, expected, monkeypatch
):
    monkeypatch.setattr(webhooks_module, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(webhooks_module, "ATTEMPTS", 2)
    file = {
        "webhooks": {"ops": {"url": "http://xn--/", "secret": SECRET}}
    }  # no name, which httpx sees too late
    async with begin(alerts_file=write(tmp_path, file)) as service:
        await create(service, alert=ALERT | {"webhook": "ops"})
        assert (await service.advance("s", whole, 0)).position == STEPS
        (queue,) = service.app.state.webhooks._queues.values()
        await until(queue.task.done)
        metrics = service.engine.metrics
        count = len(expected)
        assert (metrics.webhooks_failed, metrics.webhooks_dropped) == (2 * count, count)


async def test_a_chunk_is_answered_though_its_alert_cannot_be_sent(begin, tmp_path, whole, monkeypatch):
    def failing(**_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    file = {"webhooks": {"ops": {"url": "http://127.0.0.1:1/", "secret": SECRET}}}
    async with begin(alerts_file=write(tmp_path, file)) as service:
        await create(service, alert=ALERT | {"webhook": "ops"})
        monkeypatch.setattr(webhooks_module.httpx, "AsyncClient", failing)
        answer = await service.advance("s", whole, 0)
        assert (answer.status, answer.position, answer.replayed) == (200, STEPS, False)


async def test_a_webhook_belongs_to_the_tenant_that_the_file_names():
    target = Target("http://127.0.0.1:1/", SECRET, tenant="acme")
    webhooks = Webhooks(AlertsFile({"ops": target}), metrics := Metrics())
    webhooks.check("ops", "acme")
    with pytest.raises(Unprocessable):
        webhooks.check("ops", "other")
    webhooks.send(AlertEvent("other/s", "ops", {}))  # of a session that was imported
    assert metrics.webhooks_dropped == 1


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"webhooks": {"a": {"url": "file:///etc/passwd", "secret": SECRET}}}, "http"),
        ({"webhooks": {"a": {"url": "http://user:word@x/", "secret": SECRET}}}, "http"),
        ({"webhooks": {"a": {"url": "http://x:99999/", "secret": SECRET}}}, "http"),
        ({"webhooks": {"a": {"url": "http://[::1/", "secret": SECRET}}}, "http"),
        ({"webhooks": {"a": {"url": "http://x/", "secret": "whsec_c2hvcnQ="}}}, "24 to 64 bytes"),
        ({"webhooks": {"a": {"url": "http://x/", "secret": "k" * 32}}}, "whsec_"),
        ({"models": {"sine": {"webhook": "a", "score_above": 0.9}}}, "no webhook"),
        ({"models": {"sine": {}}}, "score_above or outside"),
        ({"hooks": {}}, "hooks"),
        ([], "cannot be read"),
    ],
)
def test_a_file_of_alerts_that_is_wrong_is_refused(tmp_path, content, word):
    with pytest.raises(ConfigError, match=word):
        read_alerts_file(write(tmp_path, content))
