import re
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.observability.metrics import Histogram, Metrics, StageTimer
from tests.helpers.faults import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(request):
    return getattr(request, "param", "memory")


async def scraped(service) -> dict[str, float]:
    """Every sample, as `name{labels}`."""
    response = await service.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_every_event_is_counted_once(start_http, clock):
    async with start_http(resident_sessions=8, batch_sessions=8) as service:
        await service.advance("a", [[0.1]] * 3, at=0)
        await service.advance("a", [[0.1]] * 3, at=0)  # replayed
        await service.advance("a", [[0.1]], at=9)  # out of step
        await service.advance("b", [["x"]])  # refused before the engine
        bulk = {"sessions": ["a", "c", "c"], "observations": [0.1, 0.2, 0.3], "at": [7, 0, 1]}
        await service.http.post("/observations", json=bulk)
        await service.http.get("/sessions/a/forecast?steps=4")
        await service.http.delete("/sessions/a")
        values = await scraped(service)
    counters = {
        name.removeprefix("carryover_").removesuffix("_total"): value for name, value in values.items()
    }
    expected = {
        "chunks": 3, "observations": 5, "replays": 1, "forecasts": 1, "sessions_created": 2,
        "sessions_deleted": 1, "sessions_expired": 0, "sessions": 1, "sessions_resident": 1,
        "failed_ticks": 0,
        "refusals_total,reason=out-of-step": 2, "refusals_total,reason=unprocessable": 1,
        "requests_total,route=/sessions/{id}/observations,status=200": 2,
        "requests_total,route=/sessions/{id}/observations,status=409": 1,
        "requests_total,route=/sessions/{id}/observations,status=422": 1,
    }  # fmt: skip
    assert {name: counters.get(name) for name in expected} == expected
    ticks = {
        stage: values[f"carryover_tick_seconds_count,stage={stage}"]
        for stage in ("collect", "step", "commit")
    }
    assert ticks["collect"] == ticks["step"] == values["carryover_batch_sessions_count"]
    assert 0 < ticks["commit"] < ticks["step"]  # a batch that is applied at once has no commit
    assert values["process_open_fds"] > 0


async def test_sessions_that_leave_the_slab_and_come_back_are_counted(start_http):
    async with start_http(resident_sessions=8, batch_sessions=8) as service:
        for i in range(20):
            await service.advance(f"s{i}", [[0.1]])
        await service.advance("s0", [[0.1]])
        values = await scraped(service)
    assert values["carryover_sessions"] == 20
    assert values["carryover_sessions_evicted_total"] >= 12
    assert values["carryover_sessions_restored_total"] >= 1
    assert values["carryover_store_seconds_count,call=load"] >= 20


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_store_on_disk_reports_its_seconds_and_bytes(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        values = await scraped(service)
    assert values["carryover_store_seconds_count,call=commit"] >= 1
    assert values["carryover_store_written_bytes_total"] > 100


async def test_expiries_and_deletions_are_counted_apart(start_http, clock):
    async with start_http(idle_ttl_seconds=5) as service:
        await service.advance("a", [[0.1]])
        clock.wait(10)
        await service.advance("a", [[0.1]])
        await until(lambda: service.engine.metrics.expired == 1)
        assert (service.engine.metrics.created, service.engine.metrics.deleted) == (2, 0)


async def test_no_label_comes_from_a_client(start_http):
    async with start_http() as service:
        before = await scraped(service)
        for i in range(50):
            await service.advance(f"made-up-{i}", [[0.1]])
            await service.http.get(f"/made/up/{i}")
            await service.http.get(f"/models/made-up-{i}")
            await service.http.request(f"MADE{i}", "/sessions")
            await service.http.get("/sessions", headers={"authorization": f"Bearer made-up-{i}"})
        values = await scraped(service)
    assert not [name for name in values if "made" in name.lower()]
    assert len(values) - len(before) < 200  # a few routes and their buckets, whatever fifty clients send


async def test_an_idle_server_costs_no_ticks(start_http):
    async with start_http() as service:
        first, second = await scraped(service), await scraped(service)
        assert first["carryover_batch_sessions_count"] == second["carryover_batch_sessions_count"]


def test_a_histogram_counts_each_value_in_its_bucket():
    values = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 5, 9):
        values.add(value)
    assert values.counts == [2, 1, 1, 1]
    assert (values.count, values.total) == (5, 17)


def test_the_stages_of_a_tick_are_timed_one_after_the_other():
    stages = StageTimer()
    stages.begin()
    for stage in ("collect", "admit"):
        stages.end(stage)
    counted = Counter({stage: one.count for stage, one in stages.histograms.items() if one.count})
    assert counted == {"collect": 1, "admit": 1}
    assert 0 <= stages.histograms["admit"].total < 1


def test_a_route_has_its_own_histogram():
    metrics = Metrics()
    metrics.record_request("/a", 200, 0.1)
    metrics.record_request("/a", 500, 0.2)
    assert metrics.requests == {("/a", 200): 1, ("/a", 500): 1}
    assert metrics.request_seconds["/a"].count == 2


async def test_every_metric_name_follows_prometheus(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        text = (await service.http.get("/metrics")).text
    ours = re.findall(r"^# TYPE (carryover\w*) (\w+)$", text, re.M)
    assert len(ours) > 25
    for name, kind in ours:
        assert (kind == "counter") == name.endswith("_total"), name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_sessions")), name


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_resident_session_that_the_store_lists_as_expired_expires_once(start_http, clock):
    async with start_http(idle_ttl_seconds=5) as service:
        for name in ("a", "b"):
            await service.advance(name, [[0.1]])
        clock.wait(10)
        await until(lambda: service.engine.metrics.expired == 2)
        assert service.engine.metrics.failed_ticks == 0
        assert len(service.engine.residents) == 0


async def test_a_dead_engine_is_neither_live_nor_ready(start_http):
    async with start_http() as service:
        assert (await service.http.get("/health/live")).json() == {"status": "ok", "reasons": []}
        service.engine._task.cancel()
        await until(service.engine._task.done)
        for path in ("/health/live", "/health/ready"):
            values = await service.http.get(path)
            assert (values.status_code, values.json()["reasons"]) == (503, ["the engine has stopped"])
        service.engine._task = None
