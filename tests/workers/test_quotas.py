"""A limit holds for the server as a whole, though each worker counts on its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import websockets

from app import server
from app.access.quotas import TokenBucket
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.helpers.two_workers import WORKERS, TwoWorkers, two_workers
from tests.helpers.ways import HotRoute

pytestmark = pytest.mark.anyio

Start = Callable[..., AbstractAsyncContextManager[TwoWorkers]]


@pytest.fixture
def keys(tmp_path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def start(tmp_path, zoo_folder, keys, monkeypatch) -> Start:
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)

    def start(**changes: Any) -> AbstractAsyncContextManager[TwoWorkers]:
        return two_workers(HotRoute, tmp_path, zoo_folder, **({"api_keys_file": keys.path} | changes))

    return start


async def test_tenants_are_apart_and_a_session_of_each_has_its_owner(start, keys):
    tenants = [f"tenant-{i}" for i in range(8)]
    for tenant in tenants:
        keys.add(tenant)
    async with start() as both:
        for i, tenant in enumerate(tenants):
            headers = keys.headers(tenant)
            body = {"observations": [[float(i)]] * (i + 1), "at": 0}
            answer = await both.ways[0].http.post("/sessions/main/observations", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
        for i, tenant in enumerate(tenants):
            shown = await both.ways[1].http.get("/sessions/main", headers=keys.headers(tenant))
            assert (shown.json()["session"], shown.json()["position"]) == ("main", i + 1)
            page = (await both.ways[1].http.get("/sessions", headers=keys.headers(tenant))).json()
            assert ([row["session"] for row in page["sessions"]], page["total"]) == (["main"], 1)
        # The owner depends on the tenant: sessions of one id are not all at one worker.
        assert all(engine.count_sessions_here() for engine in both.engines)


async def test_a_tenants_sessions_are_counted_at_all_workers(start, keys):
    keys.add("small", sessions=3)
    async with start() as both:
        for name in ("a", "b", "c"):
            created = await both.ways[0].http.post(
                "/sessions", json={"id": name}, headers=keys.headers("small")
            )
            assert created.status_code == 201
        counts = [engine.residents.counts for engine in both.engines]
        await until(lambda: all(each.per_tenant["small"] + each.per_tenant_elsewhere["small"] == 3
                                for each in counts))  # fmt: skip
        for i in range(12):  # for either owner
            refused = await both.ways[1].http.post(
                "/sessions", json={"id": f"more-{i}"}, headers=keys.headers("small")
            )
            assert (refused.status_code, refused.json()["quota"]) == (429, "sessions")
        await both.ways[0].http.delete("/sessions/a", headers=keys.headers("small"))
        await until(lambda: all(each.per_tenant["small"] + each.per_tenant_elsewhere["small"] == 2
                                for each in counts))  # fmt: skip
        created = await both.ways[0].http.post("/sessions", json={"id": "d"}, headers=keys.headers("small"))
        assert created.status_code == 201


async def test_the_servers_sessions_are_counted_at_all_workers(start):
    async with start(api_keys_file=None, max_sessions=3) as both:
        for name in ("a", "b", "c"):
            await both.ways[0].advance(name, [[0.5]], 0)
        counts = [engine.residents.counts for engine in both.engines]
        own = [engine.count_sessions_here() for engine in both.engines]
        await until(lambda: [each.elsewhere for each in counts] == own[::-1])
        for i in range(8):
            refused = await both.ways[i % 2].advance(f"more-{i}", [[0.5]], 0)
            assert (refused.status, refused.problem["type"]) == (503, "urn:carryover:too-many-sessions")


async def test_what_one_worker_grants_of_a_rate_is_deducted_at_the_other(start, keys):
    keys.add("slow", observations_per_second=100)
    body = {"observations": [[0.5]] * 400}
    async with start() as both:
        for way in both.ways:  # so that both know the key
            first = await way.http.post(
                "/sessions/a/observations", json={"observations": [0.5]}, headers=keys.headers("slow")
            )
            assert first.status_code == 200
        granted = await both.ways[0].http.post(
            "/sessions/a/observations", json=body, headers=keys.headers("slow")
        )
        assert granted.status_code == 200
        ((_, caller),) = both.ways[1].app.state.authenticator.callers()
        await until(lambda: not caller.usage.bucket.holds(0))
        refused = await both.ways[1].http.post(
            "/sessions/b/observations", json=body, headers=keys.headers("slow")
        )
        assert (refused.status_code, refused.json()["quota"]) == (429, "observations_per_second")
        assert int(refused.headers["retry-after"]) >= 1


async def test_sockets_and_connections_are_counted_at_all_workers(start, keys):
    keys.add("one", sockets=1)
    async with start() as both:
        url = "ws://127.0.0.1:{}/sessions/a/stream"
        async with websockets.connect(url.format(both.ways[0].port), additional_headers=keys.headers("one")):
            await both.ways[1].http.get("/sessions", headers=keys.headers("one"))  # so that it knows the key
            ((_, caller),) = both.ways[1].app.state.authenticator.callers()
            await until(lambda: caller.usage.sockets_elsewhere == 1)
            connections = both.ways[1].app.state.authenticator.connections
            await until(lambda: connections.elsewhere >= 1)
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with websockets.connect(
                    url.format(both.ways[1].port), additional_headers=keys.headers("one")
                ):
                    pass
            assert refused.value.response.status_code == 429
        await until(lambda: caller.usage.sockets_elsewhere == 0)
        async with websockets.connect(url.format(both.ways[1].port), additional_headers=keys.headers("one")):
            pass


def test_workers_together_grant_the_rate():
    """Each is refilled by the whole rate, less what the others have granted; it holds a part of a second."""
    now = 0.0
    buckets = [TokenBucket(100, lambda: now, WORKERS) for _ in range(WORKERS)]
    granted = 0
    for _ in range(1000):
        now += 0.01
        for bucket in buckets:
            while not bucket.take(1):
                granted += 1
        for bucket, other in (buckets, buckets[::-1]):
            other.deduct(bucket.take_granted())
    assert 1000 <= granted <= 1100  # of ten seconds, and a second's worth at the start
    alone = 0
    for _ in range(1000):
        now += 0.01
        while not buckets[0].take(1):
            alone += 1
        buckets[1].deduct(buckets[0].take_granted())
    assert 990 <= alone <= 1100  # a client that reaches one worker alone has the whole rate
