"""The promises of one process hold for two: whichever worker a request arrives at, in every way."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any

import numpy as np
import pytest
import websockets
from numpy.testing import assert_allclose

from app import server
from app.config import Settings
from app.errors import WorkerUnavailable
from app.jobs.session_query import SessionQuery
from app.workers import workers
from app.workers.place import Place
from app.workers.sockets import bind
from models.artifact.files import save
from tests.helpers.faults import held, queued, until
from tests.helpers.two_workers import TwoWorkers, owned, two_workers
from tests.helpers.ways import WAYS, AsgiRoute, HotRoute, HttpRoute, TextSocket, Way
from tests.helpers.zoo import TOLERANCE, made, one_pass, series

pytestmark = pytest.mark.anyio

HERE, THERE = owned(0, 3), owned(1, 3)
LOOPBACK_WAYS = [way for way in WAYS if way is not AsgiRoute]  # the others need two listening servers

Start = Callable[..., AbstractAsyncContextManager[TwoWorkers]]


@pytest.fixture
def start(tmp_path, zoo_folder, monkeypatch) -> Start:
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)

    def start(way: type[Way] = HttpRoute, **changes: Any) -> AbstractAsyncContextManager[TwoWorkers]:
        return two_workers(way, tmp_path, zoo_folder, **changes)

    return start


@pytest.fixture(params=["memory", "sqlite"])
def stored(request, tmp_path) -> dict[str, Any]:
    """Settings of a store."""
    return {} if request.param == "memory" else {"store": f"sqlite:{tmp_path / 'store.sqlite'}"}


def equal(got: Any, want: Any) -> None:
    assert_allclose(got, want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("way", LOOPBACK_WAYS, ids=lambda way: way.name)
async def test_streams_of_either_worker_equal_one_pass(start, stored, artifacts, way):
    names = HERE + THERE
    wholes = {name: series("sine", 40, seed) for seed, name in enumerate(names)}
    cuts = [1] * 12 + [5, 3, 20]
    async with start(way, **stored) as both:
        streams = (both.ways[0].stream(name, whole, cuts) for name, whole in wholes.items())
        for whole, got in zip(wholes.values(), await asyncio.gather(*streams), strict=True):
            equal(got, one_pass(artifacts["sine"], whole))
        for engine, own in zip(both.engines, (HERE, THERE), strict=True):
            page = await engine.by_name_here(SessionQuery(), "", 100)
            assert {name for name, _ in page.found} == set(own)


@pytest.mark.parametrize("way", LOOPBACK_WAYS, ids=lambda way: way.name)
async def test_a_retry_at_the_other_worker_is_answered_again(start, way):
    async with start(way) as both:
        for name in (HERE[0], THERE[0]):
            first = await both.ways[0].advance(name, [[0.5], [0.25]], 0)
            again = await both.ways[1].advance(name, [[0.5], [0.25]], 0)
            assert (first.status, first.replayed) == (200, False)
            assert (again.status, again.replayed, again.position) == (200, True, 2)
            equal(again.numbers, first.numbers)
            other = await both.ways[1].advance(name, [[0.75], [0.25]], 0)
            assert (other.status, other.problem["position"]) == (409, 2)
            late = await both.ways[0].advance(name, [[0.5]], 7)
            assert (late.status, late.problem["position"]) == (409, 2)
            epoch = await both.ways[0].advance(name, [[0.5]], 2, "00000000000000ff")
            assert epoch.status == 409


async def test_every_request_about_a_session_reaches_its_owner(start, stored):
    async with start(**stored) as both:
        http = both.ways[0].http
        for name in (HERE[0], THERE[0]):
            created = await http.post("/sessions", json={"id": name, "ttl_seconds": 60})
            assert (created.status_code, created.headers["location"]) == (201, f"/sessions/{name}")
            assert (await http.post("/sessions", json={"id": name})).status_code == 409
            await both.ways[1].advance(name, [[0.5], [0.25]], 0)
            shown = await both.ways[0].session(name)
            assert (shown["position"], shown["ttl_seconds"]) == (2, 60)
            forecast = await http.get(f"/sessions/{name}/forecast?steps=5")
            assert len(forecast.json()["forecast"]) == 5
            state = await http.get(f"/sessions/{name}/state")
            assert (await http.post(f"/sessions/{name}/reset", json={"at": 1})).status_code == 409
            reset = await http.post(f"/sessions/{name}/reset", json={"at": 2})
            assert reset.json()["observations_since_reset"] == 0
            put = await http.put(f"/sessions/{name}/state?at=2", content=state.content)
            assert put.json()["observations_since_reset"] == 2
            assert (await http.delete(f"/sessions/{name}?at=9")).status_code == 409
            assert (await http.delete(f"/sessions/{name}?at=2")).status_code == 204
            gone = await both.ways[1].advance(name, [[0.5]], 2)
            assert (gone.status, gone.position) == (410, 2)


@pytest.mark.parametrize("origin", [HERE[0], THERE[0]])
@pytest.mark.parametrize("target", [HERE[1], THERE[1]])
async def test_a_fork_is_the_same_whichever_worker_has_the_copy(start, artifacts, origin, target):
    whole = series("sine", 8)
    async with start() as both:
        http = both.ways[0].http
        await both.ways[0].advance(origin, whole[:5], 0)
        assert (await http.post(f"/sessions/{origin}/fork", json={"id": target, "at": 4})).status_code == 409
        fork = await http.post(f"/sessions/{origin}/fork", json={"id": target, "at": 5})
        assert fork.status_code == 201
        body = fork.json()
        assert (body["session"], body["position"], body["observations_since_reset"]) == (target, 5, 5)
        assert body["epoch"] != (await both.ways[0].session(origin))["epoch"]
        equal(
            (await both.ways[1].advance(target, whole[5:], 5)).numbers, one_pass(artifacts["sine"], whole)[5:]
        )
        # A copy remembers none of the answers of its origin.
        assert (await both.ways[0].advance(target, whole[:5], 0)).status == 409
        assert (await both.ways[0].session(origin))["position"] == 5
        again = await http.post(f"/sessions/{origin}/fork", json={"id": target})
        assert (again.status_code, again.json()["type"]) == (409, "urn:carryover:session-exists")
        missing = await http.post("/sessions/nobody/fork", json={"id": "copy"})
        assert missing.status_code == 404


async def test_a_bulk_request_is_divided_and_answered_in_its_order(start, artifacts):
    names = [HERE[0], THERE[0], HERE[1], THERE[1], THERE[2], THERE[0]]
    rows = [series("sine", 3, seed).tolist() for seed in range(len(names))]
    async with start(HotRoute) as both:
        await both.ways[0].advance(THERE[2], [[0.5]], 0)
        body = {"sessions": names, "observations": rows, "at": [0, 0, 7, 0, 0, 3]}
        answer = (await both.ways[0].http.post("/observations", json=body)).json()
        assert set(answer["errors"]) == {"2", "4"}
        assert [answer["positions"][i] for i in (0, 1, 3, 5)] == [3, 3, 3, 6]
        equal(answer["predictions"][0], one_pass(artifacts["sine"], np.array(rows[0], np.float32)))
        twice = np.array(rows[1] + rows[5], np.float32)
        equal(answer["predictions"][1] + answer["predictions"][5], one_pass(artifacts["sine"], twice))
        again = (await both.ways[1].http.post("/observations", json=body)).json()
        assert again["replayed"] == [0, 1, 3, 5]


async def test_lists_and_counts_are_those_of_all_workers(start, stored):
    names = sorted(HERE + THERE)
    async with start(**stored) as both:
        for name in names:
            await both.ways[0].advance(name, [[0.5]], 0)
        for way in both.ways:
            page = (await way.http.get("/sessions?limit=4")).json()
            assert [row["session"] for row in page["sessions"]] == names[:4]
            assert page["total"] == len(names)
            rest = (await way.http.get(f"/sessions?limit=4&after={page['next']}&detail=true")).json()
            assert [(row["session"], row["position"]) for row in rest["sessions"]] == [
                (name, 1) for name in names[4:]
            ]
            models = {row["name"]: row for row in (await way.http.get("/models")).json()["models"]}
            assert models["sine"]["sessions_resident"] == len(names)
            samples = metrics((await way.http.get("/metrics")).text)
            assert samples["carryover_chunks_total"] == len(names)
            assert samples["carryover_sessions"] == len(names)
            assert samples['carryover_model_resident{model="sine"}'] == len(names)
            assert samples["carryover_ready"] == 1
            assert samples["carryover_workers"] == 2


def metrics(page: str) -> dict[str, float]:
    """Samples by their name and labels."""
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_coverage_is_that_of_the_sessions_of_all_workers(start):
    """Shares of all intervals, and no means of the workers' shares: the sessions are of unequal lengths."""
    seconds = 1.7e9 // 3600 * 3600 + np.arange(80) * 3600.0
    lengths = {("seasonal", HERE[0]): 80, ("seasonal", THERE[0]): 25, ("planned", HERE[1]): 20,
               ("planned", THERE[1]): 70, ("adaptive", THERE[2]): 40}  # fmt: skip
    expected: dict[str, list[float]] = {}
    async with start() as both:
        for seed, ((model, name), steps) in enumerate(lengths.items()):
            level = 0.8 if model == "adaptive" else 0.9
            created = {"id": name, "model": model, "level": level}
            assert (await both.ways[0].http.post("/sessions", json=created)).status_code == 201
            body = {"observations": series(model, steps, seed)[:, :2].tolist()}
            body |= {"timestamps": seconds[:steps].tolist()} if model == "planned" else {}
            url = f"/sessions/{name}/observations"
            assert (await both.ways[1].http.post(url, json=body)).status_code == 200
            past = (await both.ways[1].http.get(f"/sessions/{name}/history")).json()
            targets = [0] if model == "planned" else [1, 0]  # the places of the targets among the inputs
            observed = np.array(past["observations"])[1:, targets]
            lower, upper = (np.array(past[end]).reshape(steps, -1)[:-1] for end in ("lower", "upper"))
            inside = (lower <= observed) & (observed <= upper)
            where = f'level="{level:g}",model="{model}"'
            after = np.r_[np.zeros((1, len(targets)), bool), ~inside[:-1]]
            expected.setdefault(f"_after_miss{{{where}}}", []).extend(inside[after])
            expected.setdefault(f"{{{where}}}", []).extend(inside.ravel())
            for t, inside_now in enumerate(inside, 1):
                hour = f'hour="{int(seconds[t] // 3600 % 24)}",{where}'
                part = f'{where},part="{t % 4}"'
                if model == "planned":
                    expected.setdefault(f"_by_hour{{{hour}}}", []).extend(inside_now)
                if model == "seasonal":
                    expected.setdefault(f"_by_season{{{part}}}", []).extend(inside_now)
        shares = {f"carryover_model_coverage{name}": np.mean(kept) for name, kept in expected.items()}
        for way in both.ways:
            samples = metrics((await way.http.get("/metrics")).text)
            found = {name: samples.get(name) for name in shares}
            assert found == pytest.approx(shares)
            others = {name for name in samples.keys() - shares.keys() if "_coverage_" in name}
            assert others == set(), "no gauge of what nobody has"


async def test_statistics_of_v2_are_those_of_all_workers(start):
    tensor = {"name": "observations", "datatype": "FP32", "shape": [1, 1, 1], "data": [0.5]}
    async with start(HotRoute) as both:
        for i, way in enumerate(both.ways):
            body = {"inputs": [tensor], "parameters": {"sequence_id": THERE[i], "sequence_start": True}}
            assert (await way.http.post("/v2/models/sine/infer", json=body)).status_code == 200
        for way in both.ways:
            (entry,) = (await way.http.get("/v2/models/sine/stats")).json()["model_stats"]
            assert entry["inference_count"] == 2
            assert entry["inference_stats"]["success"]["count"] == 2
            assert sum(batch["compute_infer"]["count"] for batch in entry["batch_stats"]) == 2


async def test_a_reload_and_an_unload_reach_all_workers(start, artifacts, zoo_folder, tmp_path):
    folder = tmp_path / "models"
    save(artifacts["sine"], folder / "sine")
    async with start(models=(folder,)) as both:
        await both.ways[0].advance(THERE[0], [[0.5]], 0)
        retrained = made("sine", hidden=32, layers=2, seed=9)
        save(retrained, folder / "sine")
        reloaded = (await both.ways[0].http.post("/models/sine/reload")).json()
        assert (reloaded["changed"], reloaded["model"]["fingerprint"]) == (True, retrained.fingerprint)
        for engine in both.engines:
            current = engine.residents.models.current["sine"]
            assert current.forecaster.artifact.fingerprint == retrained.fingerprint
        assert reloaded["model"]["sessions_on_older"] == 1
        assert (await both.ways[0].session(THERE[0]))["fingerprint"] == artifacts["sine"].fingerprint
        unloaded = await both.ways[1].http.post("/v2/repository/models/sine/unload")
        assert unloaded.status_code == 200
        assert not any(engine.residents.models.current for engine in both.engines)


async def test_a_worker_that_starts_again_serves_the_models_of_the_others(start, artifacts, tmp_path):
    folder, newer = tmp_path / "models", made("sine", hidden=32, layers=2, seed=9)
    for name in ("sine", "pair"):
        save(artifacts[name], folder / name)
    async with start(models=(folder,)) as both:
        both.workers(1).stop()  # its models are those of before, as in a process that has just read them
        await until(lambda: not both.workers(0)._peers[1].is_connected)
        save(newer, folder / "sine")
        for path in ("/models/sine/reload", "/v2/repository/models/pair/unload"):
            assert (await both.ways[0].http.post(path)).status_code == 200
        await both.workers(1).start()
        found = [
            {
                name: slab.forecaster.artifact.fingerprint
                for name, slab in engine.residents.models.current.items()
            }
            for engine in both.engines
        ]
        assert found == [{"sine": newer.fingerprint}] * 2


async def test_a_watcher_sees_the_session_of_another_worker(start, artifacts):
    whole = series("sine", 4)
    async with start() as both:
        url = f"ws://127.0.0.1:{both.ways[0].port}/sessions/{THERE[0]}/watch"
        async with websockets.connect(url) as socket:
            hello = json.loads(await socket.recv())
            assert (hello["watching"], hello["position"]) == (THERE[0], None)
            await both.ways[1].advance(THERE[0], whole, 0)
            shown = [(await way.http.get(f"/sessions/{THERE[0]}/history")).json() for way in both.ways]
            assert shown[0] == shown[1]
            assert_allclose(shown[0]["observations"], whole, rtol=1e-6)
            async with websockets.connect(url) as later:
                hello = json.loads(await later.recv())
            assert hello["history"]["observations"] == shown[0]["observations"]
            await both.ways[0].http.delete(f"/sessions/{THERE[0]}")
            events: list[Any] = []
            while len(events) < 2:
                events += json.loads(await socket.recv())["events"]
            chunk, gone = events
            assert (chunk["event"], chunk["position"]) == ("chunk", 4)
            equal(chunk["predictions"], one_pass(artifacts["sine"], whole))
            assert (gone["event"], gone["why"]) == ("gone", "deleted")
        await until(lambda: not both.engines[1].watchers)


async def test_a_watcher_is_closed_when_the_owner_is_lost(start):
    async with start() as both:
        url = f"ws://127.0.0.1:{both.ways[0].port}/sessions/{THERE[0]}/watch"
        async with websockets.connect(url) as socket:
            await socket.recv()
            both.hang_up(0)
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1013
        await until(lambda: not both.engines[1].watchers)


@pytest.mark.parametrize("cut", [False, True], ids=["by the client", "with the connection of the workers"])
async def test_a_watcher_that_leaves_before_it_is_answered_leaves_nothing_behind(start, cut):
    async with start() as both:
        (peer,) = both.workers(0)._peers.values()
        async with held(both.engines[1]) as release:
            url = f"ws://127.0.0.1:{both.ways[0].port}/sessions/{THERE[0]}/watch"
            async with websockets.connect(url):
                await queued(both.engines[1], THERE[:1])
            if cut:
                (served,) = (served for served in both.workers(1)._served if not served.is_lost)
                served.close()
                await until(lambda: served.is_lost)
            else:
                await until(lambda: not peer._watches)
                await peer.ask("count", None)  # answered behind it
            release.set()
        await until(lambda: not both.engines[1].queue_length)
        assert len(both.engines[1].watchers) == 0


@pytest.mark.parametrize("way", [HttpRoute, HotRoute, TextSocket], ids=lambda way: way.name)
async def test_a_chunk_whose_hand_over_breaks_is_applied_once(start, artifacts, tmp_path, way):
    """Nobody knows whether the owner has applied it: its client is refused, and sends it again."""
    whole = series("sine", 2)
    name = THERE[0]
    async with start(way, store=f"sqlite:{tmp_path / 'store.sqlite'}") as both:
        await both.ways[0].advance(name, whole[:1], 0)
        async with held(both.engines[1]) as release:
            sent = asyncio.ensure_future(both.ways[0].advance(name, whole[1:], 1))
            await queued(both.engines[1], [name])
            both.hang_up(0)
            refused = await sent
            assert (refused.status, refused.problem["type"]) == (503, "urn:carryover:worker-unavailable")
            release.set()
        await until(lambda: both.workers(0)._peers[1].is_connected)
        again = await both.ways[0].advance(name, whole[1:], 1)
        assert (again.status, again.position, again.replayed) == (200, 2, True)
        equal(again.numbers, one_pass(artifacts["sine"], whole)[1:])


async def test_a_lost_worker_takes_only_its_own_sessions_along(start):
    names = [HERE[0], THERE[0], HERE[1]]
    async with start(HotRoute) as both:
        await both.ways[0].advance(THERE[0], [[0.5]], 0)
        both.workers(1).stop()  # as if its process had ended
        await until(lambda: not both.workers(0)._peers[1].is_connected)
        assert both.engines[0].readiness_problems() == ["worker 1 is starting"]
        ready = await both.ways[0].http.get("/health/ready")
        assert ready.status_code == 503
        refused = await both.ways[0].advance(THERE[0], [[0.5]], 1)
        assert (refused.status, refused.problem["type"]) == (503, "urn:carryover:worker-unavailable")
        body = {"sessions": names, "observations": [[[0.5]]] * 3, "at": [0, 1, 0]}
        answer = (await both.ways[0].http.post("/observations", json=body)).json()
        assert (answer["positions"][0], answer["positions"][2], list(answer["errors"])) == (1, 1, ["1"])
        assert (await both.ways[0].http.get("/sessions")).status_code == 503  # half a list would be a lie
        assert (await both.ways[0].http.get("/metrics")).status_code == 200


async def test_a_forecast_whose_client_has_left_is_not_rolled_out(start, monkeypatch):
    async with start(forecast_steps=200_000) as both:
        await both.ways[0].advance(THERE[0], [[0.5]], 0)
        request = f"GET /sessions/{THERE[0]}/forecast?steps=200000 HTTP/1.1\r\nhost: localhost\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", both.ways[0].port)
        writer.write(request.encode())
        slow = both.engines[1]._backlog.slow
        await until(lambda: len(slow) == 1)
        writer.close()
        await until(lambda: len(slow) == 0)
        assert both.engines[1].metrics.forecasts == 0
        del reader


async def test_problems_of_one_worker_make_all_not_ready(start, monkeypatch):
    async with start() as both:
        both.engines[1]._upkeep.failure = "no space left on the device"
        await until(lambda: bool(both.engines[0].readiness_problems()))
        answer = await both.ways[0].http.get("/health/ready")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["no space left on the device"])


async def test_a_silent_worker_makes_all_not_ready(start, monkeypatch):
    async with start() as both:
        monkeypatch.setattr(workers, "SILENT_SECONDS", -1.0)
        assert both.engines[0].readiness_problems() == ["worker 1 does not answer"]


async def test_an_answer_that_comes_too_late_costs_no_other_request_its_answer(start):
    late = asyncio.Event()

    async def slow() -> bool:
        return await late.wait()

    async with start() as both:
        (peer,) = both.workers(0)._peers.values()
        both.workers(1).answers["slow"] = slow
        with pytest.raises(WorkerUnavailable, match="does not answer"):
            await peer.ask("slow", seconds=0.01)
        async with held(both.engines[1]) as release:
            sent = asyncio.ensure_future(both.ways[0].advance(THERE[0], [[0.5]], 0))
            await queued(both.engines[1], THERE[:1])
            late.set()
            await asyncio.gather(peer.ask("count", None), return_exceptions=True)  # answered behind it
            release.set()
        assert (await sent).status == 200


async def test_a_start_that_is_stopped_waits_for_no_other_worker(tmp_path, zoo_folder, monkeypatch):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    settings = Settings(models=(zoo_folder,), default_model="sine", port=0, workers=2, log_level="warning")
    serving = server.create_server(settings, place=Place(0, 2, tmp_path))
    serving.announces = False
    serving.config.load()
    serving.lifespan = serving.config.lifespan_class(serving.config)
    monkeypatch.setattr(workers, "START_SECONDS", 10.0)
    starting = asyncio.ensure_future(serving.startup(bind("127.0.0.1", 0, shared=False)))
    await until((tmp_path / "0.jobs").exists)
    serving.handle_exit(signal.SIGTERM, None)
    stopped = monotonic()
    await starting
    seconds = monotonic() - stopped
    await serving.shutdown()
    assert seconds < 5.0, "it waited for a worker that will never start"


async def test_a_bulk_request_that_this_worker_refuses_is_not_applied_at_the_other(start):
    names = [THERE[0], HERE[0], THERE[1]]
    body = {"sessions": names, "observations": [[[0.5]]] * 3}
    async with start(HotRoute) as both:
        both.engines[0]._backlog._max_jobs = 0
        refused = await both.ways[0].http.post("/observations", json=body)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:carryover:overloaded")
        assert [engine.metrics.chunks for engine in both.engines] == [0, 0]
        assert both.engines[1].count_sessions_here() == 0
