"""What a session's history shows is what was applied to it: in order, once, and as it was answered."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from models.artifact.files import save
from tests.helpers import graphs
from tests.helpers.faults import CURSED, forecaster, held, queued, raise_on_curse
from tests.helpers.ways import WAYS, AsgiRoute, BulkJson, HotRoute, Way
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


async def history(service: Way, session: str = "a", **query: Any) -> dict[str, Any]:
    response = await service.http.get(f"/sessions/{session}/history", params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["position"] == answer["from"] + len(answer["observations"]) or query
    return answer


async def post(service: Way, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    response = await service.http.post(path, json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def shows(answer: dict[str, Any], rows: Any, predictions: Any, start: int = 0) -> None:
    """The history has exactly these rows, the first of them at this position."""
    assert (answer["from"], answer["position"]) == (start, start + len(rows))
    assert answer["positions"] == list(range(start + 1, start + len(rows) + 1))
    width = len(answer["inputs"])
    assert_array_equal(np.float32(answer["observations"]).reshape(-1, width), rows)
    assert_array_equal(np.float32(answer["predictions"]).reshape(len(rows), -1), predictions)


@pytest.mark.every_pair
async def test_history_shows_what_was_sent_and_answered_in_order_and_once(start):
    whole, neighbour = series("pair", 40), series("pair", 40, 1)
    async with start() as service:
        got, at = [], 0
        for size in (1, 1, 1, 5, 1, 20, 1, 10):  # single ones first: they go the direct way
            rows = whole[at : at + size]
            reply = await service.advance("a", rows, at, model="pair")
            await service.advance("b", neighbour[at : at + size], at, model="pair")
            again = await service.advance("a", rows, at, model="pair")  # a retry
            assert again.replayed
            assert (await service.advance("a", rows[:1] + 1, at, model="pair")).status == 409
            await service.http.get("/sessions/a/forecast?steps=3")  # a look ahead
            got.append(reply.numbers)
            at += size
        shows(await history(service), whole, np.concatenate(got))
        assert_array_equal(np.float32((await history(service, "b"))["observations"]), neighbour)


async def test_a_forecast_behind_a_chunk_does_not_enter(start):
    whole = series("sine", 6)
    async with start() as service:
        first = await service.advance("a", whole[:4], 0, horizon=5)
        second = await service.advance("a", whole[4:], 4)
        shows(await history(service), whole, np.concatenate([first.numbers, second.numbers]))


async def test_only_the_last_observations_are_kept(start):
    whole = series("sine", 150)
    async with start(history_observations=20) as service:
        got = await service.stream("a", whole, [1] * 30 + [5] * 4 + [100])
        shows(await history(service), whole[-20:], got[-20:], 130)
        await service.advance("a", whole[:7], 150)
        kept = await history(service)
        assert kept["from"] == 137
        assert_array_equal(np.float32(kept["observations"]), np.concatenate([whole[-13:], whole[:7]]))


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute], indirect=True)
async def test_a_part_of_it_can_be_asked_for(start):
    whole = series("sine", 12)
    async with start(history_observations=10) as service:
        got = await service.stream("a", whole, [12])
        for query, first, stop in (
            ({"last": 3}, 9, 12),
            ({"last": 99}, 2, 12),
            ({"from": 5}, 5, 12),
            ({"from": 0}, 2, 12),
            ({"from": 5, "limit": 2}, 5, 7),
            ({"from": 0, "limit": 2}, 2, 4),
            ({"limit": 2}, 2, 4),
            ({"from": 12}, 12, 12),
            ({"from": 99}, 12, 12),
        ):
            part = await history(service, **query)
            assert (part["from"], part["position"]) == (first, 12), query
            assert_array_equal(np.float32(part["observations"]).reshape(-1, 1), whole[first:stop])
            assert_array_equal(np.float32(part["predictions"]).reshape(-1, 1), got[first:stop])
        for query in ({"last": 1, "from": 1}, {"last": 0}, {"from": -1}, {"limit": 0}):
            assert (await service.http.get("/sessions/a/history", params=query)).status_code == 422
        assert (await service.http.get("/sessions/none/history")).status_code == 404


@pytest.mark.parametrize("store", ["through"], indirect=True)
async def test_after_a_failed_commit_nothing_has_entered(start):
    wholes = {f"s{i}": series("sine", 100, i) for i in range(3)}
    async with start() as service:
        got = {name: [(await service.advance(name, whole[:4], 0)).numbers] for name, whole in wholes.items()}
        store: Any = service.engine.residents.store
        store.full = True
        for name, whole in wholes.items():
            assert (await service.advance(name, whole[4:5], 4)).status == 503
            assert (await service.advance(name, whole[4:90], 4)).status == 503  # takes several batches
            shows(await history(service, name), whole[:4], got[name][0])
        store.full = False
        for name, whole in wholes.items():
            got[name].append((await service.advance(name, whole[4:], 4)).numbers)
            shows(await history(service, name), whole, np.concatenate(got[name]))


@in_memory
@pytest.mark.parametrize("way", [HotRoute, BulkJson], indirect=True)
async def test_a_neighbour_that_is_refused_leaves_the_others_right(start):
    wholes = {f"s{i}": series("sine", 9, i) for i in range(6)}
    async with start() as service:
        raise_on_curse(forecaster(service.engine))
        for name, whole in wholes.items():
            await service.advance(name, whole[:3], 0)
        await service.advance("bad", [[0.5]], 0)
        async with held(service.engine) as release:
            chunks = {name: whole[3 : 4 + i] for i, (name, whole) in enumerate(wholes.items())}
            posts = [asyncio.ensure_future(service.advance(name, rows, 3)) for name, rows in chunks.items()]
            posts.insert(2, asyncio.ensure_future(service.advance("bad", [[float(CURSED)]], 1)))
            await queued(service.engine, [*wholes, "bad"])
            release.set()
            assert [reply.status for reply in await asyncio.gather(*posts)].count(500) == 1
        for i, (name, whole) in enumerate(wholes.items()):
            assert_array_equal(np.float32((await history(service, name))["observations"]), whole[: 4 + i])
        assert (await history(service, "bad"))["observations"] == [[0.5]]


async def test_a_reset_a_fork_an_import_and_an_eviction_begin_a_new_history(start):
    whole = series("sine", 8)
    async with start(resident_sessions=2, batch_sessions=2) as service:
        await service.advance("a", whole[:4], 0)
        await post(service, "/sessions/a/fork", {"id": "b"}, 201)
        assert (await history(service, "b"))["from"] == 4
        state = (await service.http.get("/sessions/a/state")).content
        assert (await history(service))["from"] == 0
        await service.http.put("/sessions/a/state", content=state)
        assert (await history(service))["from"] == 4
        rest = await service.advance("a", whole[4:], 4)
        shows(await history(service), whole[4:], rest.numbers, 4)
        await service.http.patch("/sessions/a", json={"labels": {"site": "north"}, "alert": None})
        shows(await history(service), whole[4:], rest.numbers, 4)  # it is the same stream
        await post(service, "/sessions/a/reset")
        empty = await history(service)
        assert (empty["from"], empty["position"], empty["observations"]) == (8, 8, [])
        await service.advance("a", whole[:1], 8)
        for name in ("x", "y", "z"):
            await service.advance(name, whole[:1], 0)
        assert (await history(service))["from"] == 9  # it was evicted, and loaded again
        after = await service.advance("a", whole[:1], 9)
        shows(await history(service), whole[:1], after.numbers, 9)


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute], indirect=True)
async def test_a_session_created_anew_has_nothing_of_the_one_before(start):
    whole = series("sine", 8)
    async with start() as service:
        await service.advance("a", whole, 0)
        await service.http.delete("/sessions/a")
        assert (await service.http.get("/sessions/a/history")).status_code == 410
        await post(service, "/sessions", {"id": "a"}, 201)
        assert (await history(service))["observations"] == []


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute], indirect=True)
async def test_nothing_is_kept_if_the_setting_says_so(start):
    async with start(history_observations=0) as service:
        await service.advance("a", series("sine", 5), 0)
        empty = await history(service)
        assert (empty["from"], empty["observations"], empty["predictions"]) == (5, [], [])


@in_memory
async def test_intervals_and_scores_are_those_of_the_answers(start):
    whole = series("adaptive", 60)
    async with start() as service:
        await post(service, "/sessions", {"id": "a", "model": "adaptive", "level": 0.9}, 201)
        await service.stream("a", whole[:20], [1, 4, 15])
        last = await post(
            service,
            "/sessions/a/observations",
            {"observations": whole[20:].tolist(), "at": 20, "level": 0.8, "score": True},
        )
        kept = await history(service)
        assert_array_equal(np.float32(kept["observations"]), whole)
        for name in ("lower", "upper", "scores", "predictions"):
            assert kept[name][20:] == last[name]
        by_session = await post(service, "/sessions/a/observations", {"observations": [[0.1, 0.2]], "at": 60})
        kept = await history(service, last=1)
        assert (kept["lower"], kept["upper"]) == (by_session["lower"], by_session["upper"])


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute], indirect=True)
async def test_values_that_were_not_observed_are_null(start):
    async with start() as service:
        body = {"observations": [[0.1, None], [None, 0.2], [None, None]], "model": "adaptive"}
        await post(service, "/sessions/a/observations", body)
        kept = (await history(service))["observations"]
        assert kept == [[0.1, None], [None, 0.2], [None, None]]


HOUR = 3600


def stamps(first: int, count: int) -> list[str]:
    return [f"1970-01-01T{first + i:02d}:00:00Z" for i in range(count)]


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute, HotRoute], indirect=True)
async def test_answers_forecasts_and_history_have_times_where_the_session_has(start):
    rows = [[0.1, 0.2], [0.2, 0.1], [0.3, 0.3]]
    async with start() as service:
        body = {"observations": rows, "timestamps": [0, HOUR, 2 * HOUR], "at": 0, "model": "planned"}
        first = await post(service, "/sessions/a/observations", body)
        assert first["times"] == stamps(1, 3)
        columns = {"observations": [[0.1, 0.2, 0.5, 0.5]], "at": 3}  # its hours by itself, and no timestamps
        second = await post(service, "/sessions/a/observations", columns)
        assert second["times"] == stamps(4, 1)
        bulk = {"sessions": ["a", "b"], "observations": [[0.1, 0.2, 0.5, 0.5]] * 2, "model": "planned"}
        many = await post(service, "/observations", bulk)
        assert many["times"] == [stamps(5, 1)[0], None]
        ahead = {"observations": [[0.4, 0.4]], "timestamps": [5 * HOUR], "horizon": 2, "future": [[1], [2]]}
        last = await post(service, "/sessions/a/observations", ahead)
        assert (last["times"], last["forecast_times"]) == (stamps(6, 1), stamps(6, 2))
        for sent, answer in ((body, first), (columns, second)):
            again = await post(service, "/sessions/a/observations", sent)
            assert again == answer | {"replayed": True}
        forecast = await post(service, "/sessions/a/forecast", {"steps": 2, "future": [[1], [2]]})
        assert forecast["times"] == stamps(6, 2)
        kept = await history(service)
        assert (kept["times"], kept["predicted_times"]) == (stamps(0, 6), stamps(1, 6))
        assert kept["inputs"] == ["a", "plan"]
        assert kept["observations"] == [*rows, [0.1, 0.2], [0.1, 0.2], [0.4, 0.4]]
        without = await history(service, "b")
        assert "times" not in without
        assert without["observations"] == [[0.1, 0.2, 0.5, 0.5]]


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    for name, make in graphs.GRAPHS.items():
        save(make(), folder / name)
    return folder


@in_memory
@pytest.mark.parametrize("way", [HotRoute], indirect=True)
async def test_every_network_shows_what_was_sent_and_answered(start, nets):
    async with start(models=(nets,), default_model="counter") as service:
        for name in graphs.GRAPHS:
            rows = graphs.observations(name, 12)
            body = {"observations": rows.tolist(), "model": name}
            if rows.dtype == np.float64:
                body["observations"] = rows.astype(np.int64).tolist()
            first = await post(service, f"/sessions/{name}/observations", body)
            kept = await history(service, name)
            assert_array_equal(np.array(kept["observations"], rows.dtype), rows)
            key = "outputs" if "outputs" in first else "predictions"
            assert kept[key] == first[key]


@in_memory
@pytest.mark.parametrize("way", [way for way in WAYS if way.socket][:1], indirect=True)
async def test_sessions_take_turns_in_a_pool_that_is_too_small(start):
    """Thirty sessions in a pool of ten blocks: what is shown is right, and the memory is as it was set."""
    wholes = {f"s{i}": series("sine", 24, i) for i in range(30)}
    async with start(history_bytes=2000) as service:
        for at in range(0, 24, 3):
            await asyncio.gather(
                *(service.advance(name, rows[at : at + 3], at) for name, rows in wholes.items())
            )
        counts = []
        for name, rows in wholes.items():
            kept = np.float32((await history(service, name))["observations"]).reshape(-1, 1)
            assert_array_equal(kept, rows[len(rows) - len(kept) :])
            counts.append(len(kept))
        assert 0 < sum(count > 0 for count in counts) <= 10
        assert service.engine.residents.models.history_bytes <= 2000


def tensor(rows: Any, **parameters: Any) -> dict[str, Any]:
    """A request of the Open Inference Protocol."""
    shape, data = [1, *np.shape(rows)], np.ravel(rows).tolist()
    inputs = [{"name": "observations", "datatype": "FP32", "shape": shape, "data": data}]
    return {"inputs": inputs, "parameters": {"sequence_id": "a", **parameters}}


@in_memory
@pytest.mark.parametrize("way", [HotRoute], indirect=True)
async def test_a_chunk_that_starts_a_sequence_again_begins_a_new_history(start):
    whole = series("sine", 9)
    async with start() as service:
        for at, rows, parameters in (
            (0, whole[:4], {"sequence_start": True}),
            (4, whole[4:6], {}),
            (6, whole[6:], {"sequence_start": True}),
        ):
            await post(service, "/v2/models/sine/infer", tensor(rows.tolist(), at=at, **parameters))
        kept = await history(service)
        assert kept["from"] == 6
        assert_array_equal(np.float32(kept["observations"]), whole[6:])


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute], indirect=True)
async def test_chunks_that_came_as_an_arrow_table_are_shown(start):
    pa = pytest.importorskip("pyarrow")
    wholes = {f"s{i}": series("sine", 3, i) for i in range(2)}
    async with start() as service:
        for at in range(3):
            columns = {
                "session": list(wholes),
                "observations": [float(rows[at, 0]) for rows in wholes.values()],
            }
            table, sink = pa.table(columns), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            kind = {"content-type": "application/vnd.apache.arrow.stream"}
            body = sink.getvalue().to_pybytes()
            answer = await service.http.post("/observations", content=body, headers=kind)
            assert answer.status_code == 200, answer.text
        for name, rows in wholes.items():
            assert_array_equal(np.float32((await history(service, name))["observations"]), rows)


@in_memory
@pytest.mark.parametrize("way", [AsgiRoute], indirect=True)
async def test_no_session_gets_the_history_of_the_one_whose_row_it_takes(start):
    """All are at the same position, so that only the forgetting tells their pasts apart."""
    wholes = {f"s{i}": series("sine", 3, i) for i in range(6)}
    async with start(resident_sessions=2, batch_sessions=2) as service:
        for name, rows in wholes.items():
            await service.advance(name, rows, 0)
        for name in wholes:
            assert (await history(service, name))["observations"] == []
