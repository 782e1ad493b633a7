"""`POST /observations`: every promise holds for each session of a request, in every form."""

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from app.codec import bulk, limits
from app.codec.bulk import BulkDecoder, BulkLimits
from app.codec.bulk import json as bulk_json
from app.codec.bulk import request as bulk_request
from app.errors import Malformed, TooLarge, Unprocessable
from app.jobs.jobs import AdvanceMany
from app.jobs.session_list import SessionList
from app.jobs.split import split_job
from app.session.slab import MIN_ROWS_FOR_SLICE
from tests.helpers import binary
from tests.helpers.faults import held, until
from tests.helpers.services import STORES, Start, starter
from tests.helpers.ways import AsgiRoute, HotRoute, Way, check_problem
from tests.helpers.zoo import one_pass, series
from tests.promises.test_promises import equal

pytestmark = pytest.mark.anyio

BINARY = {"content-type": "application/octet-stream"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
LIMITS = BulkLimits(100, limits.Limits(50, 100, 3))
DECODER = BulkDecoder(LIMITS)
MANY = 16  # sessions of a request


@pytest.fixture(params=[AsgiRoute, HotRoute], ids=["asgi", "hot"])
def start(request, store, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """By the route of FastAPI and by the hot route; over every store."""
    return starter(request.param, store, zoo_folder, clock, tmp_path, monkeypatch)


async def post(service: Way, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await service.http.post("/observations", content=content, headers=headers)


async def many(service: Way, sessions: Any, observations: Any, **more: Any) -> dict[str, Any]:
    response = await post(service, {"sessions": sessions, "observations": observations, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def chunks_of(wholes: dict[str, Any], start: int, stop: int) -> list[Any]:
    return [whole[start:stop].tolist() for whole in wholes.values()]


async def test_many_sessions_in_one_request_equal_their_own_passes(start, artifacts):
    wholes = {f"s{i}": series("sine", 12, seed=i) for i in range(20)}
    got: dict[str, list[Any]] = {name: [] for name in wholes}
    async with start() as service:
        for begin, end in [(0, 1), (1, 2), (2, 7), (7, 12)]:
            answer = await many(service, list(wholes), chunks_of(wholes, begin, end), at=[begin] * 20)
            assert answer["positions"] == [end] * 20
            assert (answer["replayed"], answer["errors"]) == ([], {})
            for name, predictions in zip(wholes, answer["predictions"], strict=True):
                got[name] += predictions
    for name, whole in wholes.items():
        equal(np.array(got[name], np.float32), one_pass(artifacts["sine"], whole))


async def test_short_and_long_chunks_in_one_request_equal_their_own_passes(start, artifacts):
    wholes = {f"s{i}": series("sine", steps, seed=i) for i, steps in enumerate([1, 3, 200, 1, 64, 65, 700])}
    async with start() as service:
        answer = await many(service, list(wholes), [whole.tolist() for whole in wholes.values()])
    assert answer["positions"] == [len(whole) for whole in wholes.values()]
    for whole, predictions in zip(wholes.values(), answer["predictions"], strict=True):
        equal(np.array(predictions, np.float32), one_pass(artifacts["sine"], whole))


async def test_json_binary_and_arrow_are_the_same_request(start):
    wholes = {f"s{i}": series("pair", 3, seed=i) for i in range(5)}
    names, chunks = list(wholes), list(wholes.values())
    async with start() as service:
        as_json = await many(service, names, [chunk.tolist() for chunk in chunks], model="pair")
        others = [f"{name}-b" for name in names]
        response = await post(service, binary.encode(others, chunks, model="pair"), **BINARY)
        assert response.headers["content-type"] == BINARY["content-type"]
        answer = binary.decode(response.content)
        table = pa.table(
            {"session": [f"{name}-c" for name in names], "observations": [c.tolist() for c in chunks]}
        )
        response = await post(service, stream_of(table.replace_schema_metadata({"model": "pair"})), **ARROW)
        rows = pa.ipc.open_stream(response.content).read_all().to_pylist()
        alone = [await service.advance(f"{name}-d", chunk, model="pair") for name, chunk in wholes.items()]
    for i in range(5):
        expected = alone[i].numbers
        for other in (as_json["predictions"][i], answer.predictions[i], rows[i]["predictions"]):
            assert_allclose(np.array(other, np.float32), expected, rtol=0, atol=3e-6)
        assert (as_json["positions"][i], answer.positions[i], rows[i]["position"]) == (3, 3, 3)
        assert rows[i]["error"] is None
        assert len(rows[i]["epoch"]) == 16


async def test_the_predictions_are_nested_as_deep_as_the_observations(start):
    async with start() as service:
        flat = await many(service, ["a", "b"], [0.1, 0.2])
        rows = await many(service, ["c", "d"], [[0.1], [0.2]])
        chunks = await many(service, ["e", "f"], [[[0.1]], [[0.2]]])
        mixed = await many(service, ["g", "h"], [0.1, [[0.2]]])
    first, second = flat["predictions"]
    assert rows["predictions"] == [[first], [second]]
    assert chunks["predictions"] == [[[first]], [[second]]]
    assert_allclose([mixed["predictions"][0], mixed["predictions"][1][0][0]], [first, second], atol=1e-6)


async def test_accept_names_another_form_of_answer(start):
    async with start() as service:
        body = {"sessions": ["a"], "observations": [0.5]}
        response = await post(service, body, accept="application/octet-stream")
        assert binary.decode(response.content).positions == [1]
        response = await post(
            service, binary.encode(["a"], [np.ones((1, 1))]), **BINARY, accept="application/json"
        )
        assert response.json()["positions"] == [2]


async def test_a_session_named_twice_advances_in_order(start, artifacts):
    whole = series("sine", 6)
    names = ["a", "b", "a", "a", "b", "a", "a", "a"]
    async with start() as service:
        answer = await many(service, names, [whole[i].tolist() for i in (0, 0, 1, 2, 1, 3, 4, 5)])
    assert answer["positions"] == [1, 1, 2, 3, 2, 4, 5, 6]
    of_a = [row for name, row in zip(names, answer["predictions"], strict=True) if name == "a"]
    equal(np.array(of_a, np.float32), one_pass(artifacts["sine"], whole))


async def test_more_sessions_than_a_batch_holds_are_split_and_answered_together(start, artifacts):
    wholes = {f"s{i}": series("sine", 2, seed=i) for i in range(25)}
    async with start(batch_sessions=4, resident_sessions=8) as service:
        for at in (0, 1):
            answer = await many(service, list(wholes), chunks_of(wholes, at, at + 1), at=[at] * 25)
            assert answer["errors"] == {}
        for whole, predictions in zip(wholes.values(), answer["predictions"], strict=True):
            equal(np.array(predictions, np.float32), one_pass(artifacts["sine"], whole)[1:])


async def test_sessions_of_several_models_go_together(start, artifacts):
    sine, pair, partial = series("sine", 2), series("pair", 2), series("partial", 2)
    async with start() as service:
        for name, whole in (("sine", sine), ("pair", pair), ("partial", partial)):
            await service.advance(name, whole[:1], model=name)
        answer = await many(
            service, ["pair", "sine", "partial"], [pair[1].tolist(), sine[1].tolist(), partial[1].tolist()]
        )
        assert answer["positions"] == [2, 2, 2]
        for name, whole, row in zip(
            ("pair", "sine", "partial"), (pair, sine, partial), answer["predictions"], strict=True
        ):
            equal(np.array([row], np.float32), one_pass(artifacts[name], whole)[1:])
        # The binary form has one width of input; the widths of the predictions may still differ.
        response = await post(
            service, binary.encode(["partial", "new"], [partial[:1], partial[:1]]), **BINARY
        )
        answer = binary.decode(response.content)
        assert answer.positions == [3, -1]
        assert answer.errors["1"]["status"] == 422


async def test_a_retried_request_gets_the_stored_answer_and_advances_nothing(start):
    wholes = {f"s{i}": series("sine", 3, seed=i) for i in range(10)}
    async with start() as service:
        first = await many(service, list(wholes), chunks_of(wholes, 0, 3), at=[0] * 10)
        again = await many(service, list(wholes), chunks_of(wholes, 0, 3), at=[0] * 10)
        assert again["replayed"] == list(range(10))
        for key in ("positions", "epochs", "predictions", "errors"):
            assert again[key] == first[key]
        response = await post(service, binary.encode(list(wholes), list(wholes.values()), [0] * 10), **BINARY)
        answer = binary.decode(response.content)
        assert answer.replayed == [1] * 10
        assert_array_equal(np.array(answer.predictions), np.array(first["predictions"], np.float32))


async def test_half_of_a_request_may_be_replayed_and_the_other_half_applied(start, artifacts):
    wholes = {f"s{i}": series("sine", 4, seed=i) for i in range(8)}
    async with start() as service:
        await many(service, list(wholes)[::2], chunks_of(wholes, 0, 4)[::2], at=[0] * 4)
        answer = await many(service, list(wholes), chunks_of(wholes, 0, 4), at=[0] * 8)
    assert answer["replayed"] == [0, 2, 4, 6]
    assert answer["positions"] == [4] * 8
    for whole, predictions in zip(wholes.values(), answer["predictions"], strict=True):
        equal(np.array(predictions, np.float32), one_pass(artifacts["sine"], whole))


async def test_a_chunk_out_of_step_fails_alone_with_its_position(start):
    async with start() as service:
        epochs = (await many(service, ["a", "b", "c"], [1, 2, 3]))["epochs"]
        answer = await many(service, ["a", "b", "c", "new"], [1, 2, 3, 4], at=[1, 7, 1, 5])
        assert answer["positions"] == [2, None, 2, None]
        assert answer["epochs"] == [epochs[0], None, epochs[2], None]
        assert answer["predictions"][1] is None
        assert answer["errors"]["1"]["status"] == 409
        assert answer["errors"]["1"]["position"] == 1
        assert answer["errors"]["3"]["status"] == 404
        swapped = await many(service, ["a", "b"], [1, 2], epochs=[epochs[1], epochs[1]], at=[2, 1])
        assert swapped["errors"]["0"]["status"] == 409
        assert swapped["positions"] == [None, 2]


async def test_the_json_answer_has_no_blanks_where_a_chunk_was_refused(start):
    async with start() as service:
        response = await post(service, {"sessions": ["a", "b"], "observations": [0.1, 1e39]})
        assert response.json()["errors"].keys() == {"1"}
        assert b" " not in response.content.partition(b'"errors"')[0]


BAD_ITEMS: dict[str, Any] = {
    "a text": ["x"],
    "a bare text": "x",
    "true": True,
    "an empty chunk": [],
    "an empty row": [[]],
    "too deep": [[[0.1]]],
    "infinite": [1e999],
    "not a number": [float("nan")],
    "beyond float32": [1e39],
    "a huge whole number": [10**400],
    "two numbers for one input": [0.1, 0.2],
    "ragged": [[0.1], [0.2, 0.3]],
    "too long": [[0.0]] * 101,
    "an object": {"x": 1},
}


@pytest.mark.parametrize("bad", BAD_ITEMS.values(), ids=list(BAD_ITEMS))
async def test_a_bad_chunk_fails_alone(start, bad):
    async with start(chunk_observations=100) as service:
        for observations in ([[0.1], bad, [0.3]], [[[0.1]], bad, [[0.3]]], [0.1, bad, 0.3]):
            answer = await many(service, ["a", "bad", "c"], observations)
            assert list(answer["errors"]) == ["1"]
            assert answer["errors"]["1"]["status"] in {413, 422}
            assert answer["positions"][1] is None
        assert answer["positions"] == [3, None, 3]
        assert (await service.http.get("/sessions/bad")).status_code == 404


@pytest.mark.parametrize(
    "more",
    [
        {"sessions": ["a", "no good", "c"]},
        {"sessions": ["a", "", "c"]},
        {"sessions": ["a", "x" * 129, "c"]},
        {"sessions": ["a", "x\ny", "c"]},
        {"sessions": ["a", "\u00e9", "c"]},
        {"sessions": ["a", 7, "c"]},
        {"at": [None, -1, None]},
        {"at": [None, "0", None]},
        {"at": [None, 2**63, None]},
        {"epochs": [None, 5, None]},
        {"epochs": [None, "nobodys", None]},
    ],
)
async def test_a_bad_entry_in_a_column_fails_alone(start, more):
    async with start() as service:
        body = {"sessions": ["a", "b", "c"], "observations": [1, 2, 3]} | more
        answer = await many(service, **body)
        assert list(answer["errors"]) == ["1"]
        assert answer["positions"] == [1, None, 1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 422),
        ({"sessions": ["a"]}, 422),
        ({"observations": [1]}, 422),
        ({"sessions": [], "observations": []}, 422),
        ({"sessions": ["a"], "observations": [1, 2]}, 422),
        ({"sessions": ["a"], "observations": [1], "at": []}, 422),
        ({"sessions": ["a"], "observations": [1], "epochs": ["x", "y"]}, 422),
        ({"sessions": ["a"], "observations": [1], "horizon": 2}, 422),
        ({"sessions": "a", "observations": [1]}, 422),
        ({"sessions": ["a"] * 11, "observations": [1] * 11}, 413),
        (b'{"sessions": ["\xff"], "observations": [1]}', 400),
    ],
)
async def test_an_error_of_the_request_refuses_the_whole_request(start, body, status):
    async with start(bulk_sessions=10) as service:
        response = await post(service, body)
        assert response.status_code == status
        check_problem(response)


async def test_a_step_that_fails_for_one_session_fails_for_that_session_alone(start, artifacts):
    async with start() as service:
        await many(service, ["a", "b", "c"], [0.1, 0.2, 0.3])
        slab = service.engine.residents.models.slab_for_model("sine")
        slab.carries[slab.index["b"]] = np.nan
        answer = await many(service, ["a", "b", "c"], [0.1, 0.2, 0.3])
        assert answer["errors"]["1"]["status"] == 500
        assert answer["positions"] == [2, None, 2]


async def test_a_request_and_single_chunks_of_its_sessions_keep_their_order(start, artifacts):
    whole = series("sine", 4)
    async with start() as service, held(service.engine) as release:
        waiting = service.engine._backlog.queue
        earlier = asyncio.ensure_future(many(service, ["a", "b"], [whole[0].tolist(), [0.0]]))
        await until(lambda: len(waiting) == 2)
        single = asyncio.ensure_future(service.advance("a", whole[1:3]))
        await until(lambda: len(waiting) == 3)
        later = asyncio.ensure_future(many(service, ["b", "a"], [[0.0], whole[3].tolist()]))
        await until(lambda: len(waiting) == 5)
        release.set()
        first, alone, last = await earlier, await single, await later
    got = [first["predictions"][0], *alone.numbers.tolist(), last["predictions"][1]]
    equal(np.array(got, np.float32), one_pass(artifacts["sine"], whole))


async def test_expired_sessions_of_a_request_are_created_again_and_the_others_continue(start, clock):
    async with start(idle_ttl_seconds=60) as service:
        await many(service, ["a", "b", "c"], [1, 2, 3])
        clock.wait(50)
        await many(service, ["b"], [2])
        clock.wait(20)
        answer = await many(service, ["a", "b", "c"], [1, 2, 3], at=[None, 2, 1])
        assert answer["positions"] == [1, 3, None]
        assert answer["errors"]["2"]["status"] == 410
        assert answer["errors"]["2"]["position"] == 1


async def test_sessions_in_the_store_are_loaded(start, artifacts):
    wholes = {f"s{i}": series("sine", 2, seed=i) for i in range(8)}
    async with start(batch_sessions=8, resident_sessions=8) as service:
        await many(service, list(wholes), chunks_of(wholes, 0, 1))
        await many(service, [f"other{i}" for i in range(8)], [0.0] * 8)
        answer = await many(service, list(wholes), chunks_of(wholes, 1, 2), at=[1] * 8)
        for whole, predictions in zip(wholes.values(), answer["predictions"], strict=True):
            equal(np.array(predictions, np.float32), one_pass(artifacts["sine"], whole)[1:])


FORMS = pytest.mark.parametrize("form", ["json", "bytes"])


async def steps(service: Way, form: str, sessions: list[str], observations: list[float]) -> Any:
    """Advance each session by an observation; the positions and the predictions."""
    if form == "json":
        answer = await many(service, sessions, observations)
        assert answer["errors"] == {}
        return answer["positions"], answer["predictions"]
    chunks = [np.array([[number]], np.float32) for number in observations]
    answer = binary.decode((await post(service, binary.encode(sessions, chunks), **BINARY)).content)
    assert answer.errors == {}
    return list(answer.positions), [chunk.item() for chunk in answer.predictions]


@FORMS
async def test_a_list_sent_again_follows_sessions_that_left_and_rows_that_were_reused(start, artifacts, form):
    names = [f"s{i}" for i in range(MANY)]
    others = [i != 3 for i in range(MANY)]
    wholes = {name: series("sine", 4, seed=i) for i, name in enumerate(names)}

    async def step(service, step_number):
        return await steps(service, form, names, [float(whole[step_number, 0]) for whole in wholes.values()])

    async with start() as service:
        for step_number in range(2):
            assert (await step(service, step_number))[0] == [step_number + 1] * MANY
        assert (await service.http.delete("/sessions/s3")).is_success
        stranger = series("sine", 2, seed=77)
        await service.advance("stranger", stranger[:1])
        positions, predictions = await step(service, 2)
        assert positions == [1 + 2 * other for other in others]
        assert (await step(service, 3))[0] == [2 + 2 * other for other in others]
        alone = await service.advance("stranger", stranger[1:], at=1)
    equal(alone.numbers, one_pass(artifacts["sine"], stranger)[1:])
    for i, whole in enumerate(wholes.values()):
        observed = whole[2:3] if i == 3 else whole[:3]
        equal(np.array([[predictions[i]]], np.float32), one_pass(artifacts["sine"], observed)[-1:])


@FORMS
async def test_lists_sent_alternately_that_evict_each_other_continue_where_they_were(start, artifacts, form):
    wholes = {f"s{i}": series("sine", 4, seed=i) for i in range(2 * MANY)}
    names, half = list(wholes), MANY // 2
    got: dict[str, list[float]] = {name: [] for name in names}
    async with start(batch_sessions=MANY, resident_sessions=MANY) as service:
        for step_number in range(4):
            for listed in (names[:MANY], names[MANY:], names[half:-half]):
                names_now = [name for name in listed if len(got[name]) <= step_number]
                if not names_now:
                    continue
                values = [float(wholes[name][len(got[name]), 0]) for name in names_now]
                _, predictions = await steps(service, form, names_now, values)
                for name, prediction in zip(names_now, predictions, strict=True):
                    got[name].append(prediction)
    for name, whole in wholes.items():
        equal(np.array(got[name], np.float32)[:, None], one_pass(artifacts["sine"], whole))


@FORMS
async def test_sessions_in_consecutive_rows_equal_their_own_passes(start, artifacts, form):
    names = [f"s{i}" for i in range(MIN_ROWS_FOR_SLICE + 10)]
    wholes = [series("sine", 5, seed=i) for i in range(len(names))]

    async def step(service, step_number):
        return (await steps(service, form, names, [float(whole[step_number, 0]) for whole in wholes]))[1]

    async with start() as service:
        got = [await step(service, step_number) for step_number in range(4)]
        assert (await service.http.post("/sessions/s5/reset")).is_success
        got.append(await step(service, 4))
        service.engine.residents.models.slab_for_model("sine").carries[0] = np.nan
        answer = await many(service, names, [0.0] * len(names))
        assert list(answer["errors"]) == ["0"]
        assert answer["positions"] == [None, *[6] * (len(names) - 1)]
    for i in (1, 4, 6, MIN_ROWS_FOR_SLICE + 9):
        equal(np.array([row[i] for row in got], np.float32)[:, None], one_pass(artifacts["sine"], wholes[i]))
    equal(np.array([[got[4][5]]], np.float32), one_pass(artifacts["sine"], wholes[5][4:]))


async def test_a_full_queue_refuses_the_whole_request_with_503(start):
    async with start(queue_jobs=4, bulk_sessions=4) as service, held(service.engine) as release:
        waiting = asyncio.ensure_future(many(service, ["a", "b", "c", "d"], [1, 2, 3, 4]))
        await until(lambda: len(service.engine._backlog.queue) == 4)
        response = await post(service, {"sessions": ["e", "f"], "observations": [1, 2]})
        assert response.status_code == 503
        check_problem(response)
        release.set()
        assert (await waiting)["positions"] == [1, 1, 1, 1]


@pytest.mark.parametrize("store", list(STORES)[:1], indirect=True)
@pytest.mark.parametrize(
    ("columns", "statuses"),
    [
        ({"observations": [[0.1], None, [0.3]]}, [200, 422, 200]),
        ({"observations": [[0.1], [], [0.3]]}, [200, 422, 200]),
        ({"observations": [[0.1], [0.1, 0.2], [0.3]]}, [200, 422, 200]),
        ({"observations": [[0.1], [float("nan")], [0.3]]}, [200, 422, 200]),
        ({"observations": [[0.1], [1e39], [0.3]]}, [200, 422, 200]),
        ({"observations": [0.1, float("inf"), 0.3]}, [200, 422, 200]),
        ({"observations": [0.1, 3.4028235e38, 0.3]}, [200, 200, 200]),
        ({"observations": [[[0.1]], None, [[0.3]]]}, [200, 422, 200]),
        ({"observations": [[[0.1]], [], [[0.3]]]}, [200, 422, 200]),
        ({"observations": [[[0.1]], [[]], [[0.3]]]}, [200, 422, 200]),
        ({"observations": [[[0.1]], [[0.1], None], [[0.3]]]}, [200, 422, 200]),
        ({"observations": [[[0.1]], [[0.1], [0.1, 0.2]], [[0.3]]]}, [200, 422, 200]),
        ({"observations": [[[0.1]], [[0.1]] * 101, [[0.3]]]}, [200, 413, 200]),
        ({"session": ["a", None, "c"]}, [200, 422, 200]),
        ({"session": ["a", "..", "c"]}, [200, 422, 200]),
        ({"session": pa.array(["a", "b", "a"]).dictionary_encode()}, [200, 200, 200]),
        ({"at": pa.array([0, 2**64 - 1, None], "uint64")}, [200, 422, 200]),
        ({"at": pa.array([0, -2, None], "int64")}, [200, 422, 200]),
        ({"at": pa.array([0.0, 0.5, None])}, [200, 422, 200]),
        ({"at": pa.array([0.0, 0.0, None])}, [200, 200, 200]),
        ({"at": pa.array([None, None, None], "int64")}, [200, 200, 200]),
        ({"epoch": ["0", None, None], "at": [0, 7, 0]}, [404, 404, 200]),
    ],
)
async def test_a_bad_row_of_arrow_fails_alone(start, columns, statuses):
    whole = {"session": ["a", "b", "c"], "observations": [[0.1], [0.2], [0.3]]} | columns
    async with start(chunk_observations=100) as service:
        response = await post(service, stream_of(pa.table(whole)), **ARROW)
        assert response.status_code == 200, response.content
        rows = pa.ipc.open_stream(response.content).read_all().to_pylist()
        problems = [None if row["error"] is None else json.loads(row["error"]) for row in rows]
        assert [200 if problem is None else problem["status"] for problem in problems] == statuses
        assert [row["position"] is not None for row in rows] == [status == 200 for status in statuses]


@pytest.mark.parametrize("store", list(STORES)[:1], indirect=True)
@pytest.mark.parametrize(
    "columns",
    [
        {"session": pa.array([b"a", b"b"])},
        {"session": pa.array(["a", "b"], pa.string_view())},
        {"session": pa.array([1, 2])},
        {"observations": ["0.1", "0.2"]},
        {"observations": [True, False]},
        {"observations": [[[[0.1]]], [[[0.2]]]]},
        {"observations": pa.array([[0.1], [0.2]], pa.list_view(pa.float32()))},
        {"observations": pa.array([0.1, 0.1]).dictionary_encode()},
        {"at": ["0", "0"]},
    ],
)
async def test_a_column_of_another_type_refuses_the_whole_request(start, columns):
    whole = {"session": ["a", "b"], "observations": [[0.1], [0.2]]} | columns
    async with start() as service:
        response = await post(service, stream_of(pa.table(whole)), **ARROW)
        assert response.status_code == 422
        check_problem(response)


@pytest.mark.parametrize("store", list(STORES)[:1], indirect=True)
async def test_arrow_accepts_fixed_size_lists_and_refuses_compressed_batches(start):
    async with start() as service:
        fixed = pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1))
        table = pa.table({"session": ["a", "b"], "observations": fixed})
        assert (await post(service, stream_of(table), **ARROW)).status_code == 200
        names = pa.array(["a", "b"]).dictionary_encode()
        for sessions in (["a", "b"], names):
            table = pa.table({"session": sessions, "observations": fixed})
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            response = await post(service, stream_of(table, options), **ARROW)
            assert response.status_code == 422


@pytest.mark.parametrize(
    "observations",
    [
        [[[0.1 * i, 0.2], [0.3, -i]] for i in range(3_000)],
        [[0.1 * i, 0.2] for i in range(3_000)],
        [0.1 * i for i in range(3_000)],
        [[0.1, None] if i % 7 else [0.2, 0.3] for i in range(3_000)],
        [[[0.1, None], [0.2, 0.3]] for _ in range(3_000)],
        [[0.1, 0.2] if i % 500 else 0.5 for i in range(3_000)],
        [[0.1, 0.2] if i % 500 else ["x", 1] for i in range(3_000)],
        [[0.1, 0.2] if i % 500 else [float("nan"), 1e999] for i in range(3_000)],
        [[0.1, 0.2] if i % 500 else [1e39, 1] for i in range(3_000)],
        [[[0.1]] * (1 + i % 50) for i in range(3_000)],
        [[[0.1]] * (49 + i % 3) for i in range(3_000)],
    ],
    ids=range(11),
)
@pytest.mark.parametrize("large", [0, 2**30])
def test_a_request_decoded_in_slices_is_the_request_decoded_as_a_whole(observations, large, monkeypatch):
    """As a whole, and chunk by chunk, which needs no slices."""
    limits_ = BulkLimits(10_000, limits.Limits(50, 100, 3))
    names = [f"s{i}" for i in range(len(observations))]
    body = json.dumps({"sessions": names, "observations": observations, "at": [i % 3 for i in range(3_000)]})
    monkeypatch.setattr(bulk_json, "LARGE_BODY_BYTES", large)
    request = BulkDecoder(limits_).decode(body.encode(), "", "")
    seen = set(request.errors)
    for indexes, job in request.jobs:
        chunks = np.split(job.observations, np.cumsum(job.lengths)[:-1])
        for i, chunk in zip(indexes.tolist(), chunks, strict=True):
            seen.add(i)
            item = observations[i]
            rows = item if isinstance(item, list) and isinstance(item[0], list) else [item]
            expected = np.array(rows, float).astype(np.float32).reshape(len(rows), -1)
            assert_array_equal(chunk, expected)
        assert job.at is not None
        assert job.at.tolist() == [i % 3 for i in indexes.tolist()]
        assert list(job.sessions) == [names[i] for i in indexes.tolist()]
    assert seen == set(range(3_000))
    wrong = {
        i
        for i, item in enumerate(observations)
        if "x" in str(item) or "nan" in str(item) or "1e+39" in str(item)
    }
    too_long = {i for i, item in enumerate(observations) if isinstance(item, list) and len(item) > 50}
    assert set(request.errors) == wrong | too_long


@pytest.mark.parametrize("store", list(STORES)[:1], indirect=True)
async def test_a_request_queued_in_parts_is_answered_as_one(start, artifacts, monkeypatch):
    monkeypatch.setattr(bulk_request, "PART_OBSERVATIONS", 10)
    monkeypatch.setattr(bulk_json, "LARGE_BODY_BYTES", 100)
    monkeypatch.setattr(bulk, "LARGE_BODY_BYTES", 100)
    wholes = {f"s{i}": series("sine", 5, seed=i) for i in range(9)}
    names = [*wholes, "no good", "s0"]
    chunks = [whole.tolist() for whole in wholes.values()] + [[[0.1]], [[0.5], [0.6]]]
    async with start() as service:
        answer = await many(service, names, chunks, at=[0] * 10 + [5])
        assert list(answer["errors"]) == ["9"]
        assert answer["positions"] == [5] * 9 + [None, 7]
        for whole, predictions in zip(wholes.values(), answer["predictions"], strict=False):
            equal(np.array(predictions, np.float32), one_pass(artifacts["sine"], whole))


def stream_of(table: pa.Table, options: Any = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


GOOD = binary.encode(["a", "b"], [np.zeros((2, 1)), np.ones((1, 1))], [0, -1], [1, 3], "sine")


def test_a_binary_request_cut_short_anywhere_is_refused():
    for end in range(len(GOOD) - len("b")):
        with pytest.raises((Malformed, Unprocessable)):
            DECODER.decode(GOOD[:end], BINARY["content-type"], "")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_a_binary_request_changed_anywhere_is_refused_or_valid_and_never_crashes(changes):
    body = bytearray(GOOD)
    for place, value in changes:
        body[place] = value
    check_decoded(bytes(body), BINARY["content-type"])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"CYO1"]), st.sampled_from([BINARY, ARROW]))
def test_any_bytes_are_refused_or_valid_and_never_crash(body, magic, kind):
    check_decoded(magic + body, kind["content-type"])


ARROW_GOOD = stream_of(
    pa.table({"session": ["a", "b"], "observations": [[[0.1]], [[0.2], [0.3]]], "at": [0, 1]})
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(ARROW_GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_an_arrow_stream_changed_anywhere_is_refused_or_valid_and_never_crashes(changes):
    body = bytearray(ARROW_GOOD)
    for place, value in changes:
        body[place] = value
    check_decoded(bytes(body), ARROW["content-type"])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(JSON_VALUES, max_size=3),
    st.lists(JSON_VALUES, max_size=3),
    st.none() | st.lists(JSON_VALUES, max_size=3),
)
def test_any_json_columns_are_refused_or_valid_and_never_crash(sessions, observations, at):
    body = {"sessions": sessions, "observations": observations, "at": at}
    check_decoded(json.dumps(body).encode(), "application/json")


def check_decoded(body: bytes, content_type: str) -> None:
    """The body is refused, or its jobs are valid for the engine."""
    try:
        request = DECODER.decode(body, content_type, "")
    except (Malformed, Unprocessable, TooLarge):
        return
    seen = set(request.errors)
    for which, job in request.jobs:
        seen |= set(which.tolist())
        assert len(which) == len(job) == len(job.lengths)
        assert job.observations.dtype in (np.float32, np.float64)  # the latter where a whole number needs it
        gaps = job.options is not None and job.options.gaps  # NaN is null, which needs this option
        assert np.isfinite(job.observations[~(np.isnan(job.observations) & gaps)]).all()
        assert len(job.observations) == job.lengths.sum()
        assert job.lengths.min() >= 1
        assert job.lengths.max() <= LIMITS.chunk.observations
        assert all(limits.SESSION_ID.fullmatch(name) for name in job.sessions)
        assert job.at is None or job.at.min() >= -1
    assert seen == set(range(request.count))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 90)), min_size=1, max_size=30),
    st.integers(1, 8),
    st.integers(1, 300),
)
def test_a_split_request_holds_every_chunk_once_in_order_and_within_bounds(
    chunks, most_sessions, most_observations
):
    lengths = np.array([length for _, length in chunks])
    place = np.arange(lengths.sum(), dtype=np.float32)[:, None]
    job = AdvanceMany(SessionList(name for name, _ in chunks), place, lengths)
    parts = split_job(job, most_sessions, most_observations)
    got: dict[str, list[float]] = {}
    for part in parts:
        sessions = list(part.sessions)
        assert len(set(sessions)) == len(sessions) <= most_sessions
        counts = part.lengths if isinstance(part, AdvanceMany) else np.array([len(part.observations)])
        assert len(sessions) == 1 or counts.sum() <= most_observations
        for name, rows in zip(sessions, np.split(part.observations, np.cumsum(counts)[:-1]), strict=True):
            got.setdefault(name, []).extend(rows.ravel().tolist())
    expected: dict[str, list[float]] = {}
    for (name, _), rows in zip(chunks, np.split(place, np.cumsum(lengths)[:-1]), strict=True):
        expected.setdefault(name, []).extend(rows.ravel().tolist())
    assert got == expected
