"""The promises hold for every network: whole numbers, several states, small types, several inputs.

Each graph is compared with onnxruntime called alone over the whole series, or with plain arithmetic.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from functools import cache

import carryover
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from app.config import Settings
from app.errors import ConfigError
from app.model_library import ModelLibrary
from models.artifact.files import save
from tests.helpers import graphs, zoo
from tests.helpers.faults import held, queued
from tests.helpers.ways import WAYS, AsgiRoute, BulkBinary, HotRoute, Protocol, TextSocket

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)

# The zoo's LSTM, computed by Carryover itself, and the graphs.
NETS = ("sine", *graphs.GRAPHS)
ROWS = 20
JOB_WAYS = (AsgiRoute, BulkBinary)  # a chunk that is a job of its own, and one of many
SMALL = {"resident_sessions": 2, "batch_sessions": 2}  # so that sessions are stored and loaded again


@pytest.fixture(scope="session")
def graph_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    for name, make in graphs.GRAPHS.items():
        save(make(), folder / name)
    save(graphs.endless(), folder / "endless")
    return folder


@pytest.fixture
def serve(start, graph_folder):
    return lambda **changes: start(**({"models": (graph_folder,), "default_model": "counter"} | changes))


@pytest.fixture
def serve_http(start_http, graph_folder):
    return lambda **changes: start_http(**({"models": (graph_folder,), "default_model": "counter"} | changes))


def series(net: str, steps: int, seed: int = 0) -> np.ndarray:
    if net == "sine":
        return zoo.series(net, steps, seed)
    rows = graphs.observations(net, steps, seed)
    return rows.astype(np.int64) if rows.dtype == np.float64 else rows


@pytest.fixture(scope="session")
def alone(artifacts):
    """What each network answers by itself to the first rows of its series, [rows, outputs]."""

    @cache
    def whole(net: str, seed: int) -> np.ndarray:
        rows = series(net, ROWS, seed)
        return zoo.one_pass(artifacts[net], rows) if net == "sine" else graphs.reference(net, rows)

    return whole


def equal(net: str, got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape, net
    if net == "counter":
        assert_array_equal(got, want)
    elif net == "frames":
        assert_allclose(got, want, rtol=1e-5, err_msg=net)
    else:
        assert_allclose(got, want, atol=1e-6, err_msg=net)


@pytest.mark.parametrize(
    ("way", "store"),
    [
        *((way, "memory") for way in WAYS),
        *((way, store) for store in ("sqlite", "redis") for way in JOB_WAYS),
    ],
    indirect=True,
)
async def test_every_network_keeps_every_promise(request, zoo_folder, serve, graph_folder, way, store, alone):
    """One server has all networks, and rows for so few sessions that they are stored and loaded again."""
    if store == "redis":
        request.getfixturevalue("redis_url")
    models = {"models": (graph_folder, zoo_folder / "sine")}
    async with serve(**SMALL, **models) as service:
        for promise in (cut_as_it_comes, sent_again, forked_reset_and_moved):
            await of_each_network(promise, service, alone)
        assert service.engine.residents.resident <= 2 * len(service.engine.residents.models.slabs)
    if store != "memory":
        async with serve(**models) as service:
            await of_each_network(goes_on_after_a_restart, service, alone)


async def of_each_network(promise, service, alone):
    async with asyncio.TaskGroup() as group:
        for net in NETS:
            group.create_task(promise(service, net, alone))


async def cut_as_it_comes(service, net, alone):
    """Chunks of any sizes, of sessions that share batches, are the network alone over the whole series."""
    streams = [
        service.stream(f"{net}-{seed}", series(net, ROWS, seed), cuts, net)
        for seed, cuts in enumerate(([1, 5, 1, 11, 2], [3, 6, 11], [20]))
    ]
    for seed, got in enumerate(await asyncio.gather(*streams)):
        equal(net, got, alone(net, seed))


async def sent_again(service, net, alone):
    """A chunk that is sent again is answered again, and another in its place is refused."""
    rows, want, name = series(net, ROWS), alone(net, 0), f"{net}-again"
    first = [
        await service.advance(name, rows[:1], 0, model=net),
        await service.advance(name, rows[1:9], 1, model=net),
    ]
    for chunk, at, before in ((rows[1:9], 1, first[1]), (rows[:1], 0, first[0])):
        again = await service.advance(name, chunk, at, model=net)
        assert again.replayed, net
        assert_array_equal(again.numbers, before.numbers)
        assert again.position == before.position
    other = rows[1:9].copy()
    other[3, 0] = (other[3, 0] + 1) % 7
    refused = await service.advance(name, other, 1, model=net)
    assert (refused.status, refused.position) == (409, 9), net
    equal(net, (await service.advance(name, rows[9:12], 9, model=net)).numbers, want[9:12])


async def forked_reset_and_moved(service, net, alone):
    """A session is looked at, forked, exported, reset and imported with all its state."""
    rows, want = series(net, ROWS), alone(net, 0)
    name, fork, moved, reset = (f"{net}-{what}" for what in ("origin", "fork", "moved", "reset"))
    await service.advance(name, rows[:10], 0, model=net)
    peek = await service.session(name)
    assert_allclose(peek["last_prediction"], want[9], rtol=1e-5, atol=1e-6, err_msg=net)
    assert (await service.http.post(f"/sessions/{name}/fork", json={"id": fork})).status_code == 201
    file = (await service.http.get(f"/sessions/{name}/state")).content
    assert not (await service.http.post(f"/models/{net}/reload")).json()["changed"]
    assert (await service.http.post(f"/sessions/{name}/reset")).json()["position"] == 10
    equal(net, (await service.advance(name, rows, 10, model=net)).numbers, want)
    for target in (moved, reset):
        imported = await service.http.put(f"/sessions/{target}/state", content=file)
        assert (imported.status_code, imported.json()["position"]) == (200, 10), net
    for target in (fork, moved):
        equal(net, (await service.advance(target, rows[10:], 10, model=net)).numbers, want[10:])
    again = await service.advance(reset, rows[:10], 0, model=net)
    assert again.replayed, net
    equal(net, again.numbers, want[:10])


async def goes_on_after_a_restart(service, net, alone):
    rows, want, name = series(net, ROWS), alone(net, 0), f"{net}-again"
    again = await service.advance(name, rows[9:12], 9, model=net)
    assert again.replayed, net
    equal(net, again.numbers, want[9:12])
    equal(net, (await service.advance(name, rows[12:], 12, model=net)).numbers, want[12:])


@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize("store", ["redis"], indirect=True)
async def test_a_session_goes_on_at_any_replica(serve_http, zoo_folder, graph_folder, store, alone):
    models = {"models": (graph_folder, zoo_folder / "sine")}
    async with serve_http(**models) as one, serve_http(**models) as other:
        for net in NETS:
            rows, want = series(net, ROWS), alone(net, 0)
            for at, service, replica in ((0, one, other), (4, other, one), (8, one, other)):
                chunk = rows[at : at + 4]
                got = await service.advance(net, chunk, at, model=net)
                equal(net, got.numbers, want[at : at + 4])
                again = await replica.advance(net, chunk, at)
                assert again.replayed, net
                assert_array_equal(again.numbers, got.numbers)


@in_memory
async def test_reload_keeps_old_sessions_on_their_graph_until_reset(start_http, store, tmp_path):
    older, newer = graphs.counter(), graphs.counter("int32")
    save(older, tmp_path / "zoo" / "counter")
    async with start_http(models=(tmp_path / "zoo",), default_model="counter") as service:
        await service.advance("old", np.array([[2**40]]))
        save(newer, tmp_path / "zoo" / "counter")
        assert (await service.http.post("/models/counter/reload")).json()["changed"]
        assert (await service.advance("old", np.array([[1]]), 1)).numbers.tolist() == [[2**40 - 2]]
        refused = await service.advance("new", np.array([[2**40]]))
        assert refused.status == 422
        assert "not from -2147483648 to 2147483647" in refused.problem["detail"]
        assert (await service.http.post("/sessions/old/reset")).json()["fingerprint"] == newer.fingerprint
        assert (await service.advance("old", np.array([[5]]), 2)).numbers.tolist() == [[2]]


@in_memory
async def test_sessions_go_on_warm_on_a_newer_graph_of_the_same_shape(start_http, store, tmp_path):
    older = graphs.gru()
    state = older.signature.states[0]
    changed = replace(older.signature, states=(replace(state, initial=state.initial + np.float32(0.1)),))
    newer = replace(older, signature=changed)
    rows = series("gru", 8)
    save(older, tmp_path / "zoo" / "gru")
    warm = {"models": (tmp_path / "zoo",), "default_model": "gru", "replay_observations": 16}
    async with start_http(**warm) as service:
        await service.advance("a", rows[:7], 0)
        save(newer, tmp_path / "zoo" / "gru")
        await service.http.post("/models/gru/reload")
        got = await service.advance("a", rows[7:], 7)
        await service.advance("b", rows, 0)
        assert_allclose(got.numbers[0], (await service.session("b"))["last_prediction"], atol=1e-6)


IMPOSSIBLE = [
    ("characters", [[3], [30]], "row 1: token is 30, which is not from 0 to 29"),
    ("characters", [[-1]], "row 0: token is -1, which is not from 0 to 29"),
    ("counter", [[2**53]], "row 0: step is 9007199254740992, which is not from"),
    ("gru", [[1, 2, 3]], "has 2 numbers (flow, level), row 0 has 3"),
]


@in_memory
@pytest.mark.parametrize("way", [HotRoute, BulkBinary, Protocol], indirect=True)
@pytest.mark.parametrize(("net", "rows", "problem"), IMPOSSIBLE)
async def test_a_number_that_an_input_cannot_hold_is_refused_by_name(serve, store, net, rows, problem):
    good = series(net, 4)
    async with serve() as service:
        await service.advance("a", good[:2], 0, model=net)
        refused = await service.advance("a", np.array(rows), 2)
        assert refused.status in (400, 422)
        if not (isinstance(service, Protocol) and net == "gru"):  # there Triton's own text
            assert problem in refused.problem["detail"]
        equal(net, (await service.advance("a", good[2:], 2)).numbers, graphs.reference(net, good)[2:])


@in_memory
async def test_a_number_with_a_fraction_is_no_token(serve_http, store):
    async with serve_http() as service:
        reply = await service.advance("a", [[1.5]], model="characters")
        assert (reply.status, reply.problem["row"]) == (422, 0)
        assert "token is 1.5, which is not a whole number" in reply.problem["detail"]


@in_memory
async def test_a_bad_chunk_of_a_bulk_request_fails_alone(serve_http, store):
    tokens = [[3], [99], [5]]
    async with serve_http() as service:
        for _ in range(2):  # sessions that are new, and sessions that are resident
            answer = await service.http.post(
                "/observations",
                json={"sessions": ["a", "b", "c"], "observations": tokens, "model": "characters"},
            )
            columns = answer.json()
            assert list(columns["errors"]) == ["1"]
            assert "token is 99" in columns["errors"]["1"]["detail"]
            assert all(column[1] is None for column in columns["outputs"].values())
        assert columns["positions"] == [2, None, 2]
        want = graphs.reference("characters", np.array([[3], [3]]))[1]
        assert_allclose(columns["outputs"]["logits"][0], want[:30], atol=1e-6)
        assert columns["outputs"]["best"][0] == want[30]


@in_memory
async def test_a_number_out_of_range_is_refused_of_sessions_that_need_no_batch(start_http, store, tmp_path):
    """Chunks of one observation of resident sessions are applied at once, if all are possible."""
    artifact = graphs.gru()
    (port,) = artifact.inputs
    bounded = replace(artifact.signature, inputs=(replace(port, range=(-1, 1)),))
    save(replace(artifact, signature=bounded), tmp_path / "zoo" / "gru")
    async with start_http(models=(tmp_path / "zoo",), default_model="gru") as service:
        body = {"sessions": ["a", "b"], "observations": [[0.5, -1], [1, 0.25]]}
        assert (await service.http.post("/observations", json=body)).json()["positions"] == [1, 1]
        body["observations"] = [[0.5, 0.5], [0.5, 1.5]]
        answer = (await service.http.post("/observations", json=body)).json()
        assert answer["positions"] == [2, None]
        assert "row 0: level is 1.5, which is not from -1 to 1" in answer["errors"]["1"]["detail"]


@in_memory
@pytest.mark.parametrize("way", [HotRoute, TextSocket], indirect=True)
async def test_requests_that_are_read_together_keep_whole_numbers(serve, store):
    """Later requests of a connection, and messages, are read by the batch, as float32."""
    numbers, total = [2**24 + 1, 1, 2**40 + 1, -(2**24) - 1, 7], -3
    async with serve() as service:
        for at, number in enumerate(numbers):
            total += number
            reply = await service.advance("a", np.array([[number]]), at)
            assert reply.numbers.tolist() == [[total]]


@in_memory
@pytest.mark.parametrize("way", WAYS, indirect=True)
async def test_a_negative_counter_is_not_taken_for_nan(serve, store):
    async with serve() as service:
        got = [await service.advance("a", np.array([[-1]]), at) for at in range(3)]
        assert [reply.numbers.tolist() for reply in got] == [[[-4]], [[-5]], [[-6]]]


@in_memory
async def test_a_sum_that_no_float64_holds_is_not_answered(serve_http, store):
    async with serve_http() as service:
        await service.advance("a", np.array([[2**53 - 1]]), 0)
        reply = await service.advance("a", np.array([[2**53 - 1]]), 1)
        assert reply.status == 500
        assert "a whole number of 2**53 or more" in reply.problem["detail"]
        assert (await service.advance("a", np.array([[-1]]), 1)).numbers.tolist() == [[2**53 - 5]]


@in_memory
async def test_inputs_and_outputs_have_names(serve_http, store):
    rows = series("frames", 3)
    want = graphs.reference("frames", rows)
    audio, gain = rows[:, :4].tolist(), rows[:, 4].tolist()
    async with serve_http() as service:
        body = {"inputs": {"audio": audio, "gain": gain}, "at": 0, "model": "frames"}
        answer = (await service.http.post("/sessions/a/observations", json=body)).json()
        assert "predictions" not in answer
        assert list(answer["outputs"]) == ["energy", "peak", "loud"]
        assert_allclose(answer["outputs"]["energy"], want[:, :1], rtol=1e-5)
        assert answer["outputs"]["loud"] == want[:, 2:].astype(int).tolist()
        assert all(type(flag) is int for (flag,) in answer["outputs"]["loud"])
        again = (await service.http.post("/sessions/a/observations", json=body)).json()
        assert (again["replayed"], again["outputs"]) == (True, answer["outputs"])
        by_rows = await service.advance("a", rows, 0)
        assert by_rows.replayed, "the same numbers in rows are the same chunk"
        nested = body | {"inputs": {"audio": audio, "gain": [[number] for number in gain]}}
        assert (await service.http.post("/sessions/a/observations", json=nested)).json()["replayed"]
        await service.http.put(
            "/sessions/b/state", content=(await service.http.get("/sessions/a/state")).content
        )


@in_memory
@pytest.mark.parametrize("way", [TextSocket], indirect=True)
async def test_a_message_has_inputs_and_outputs_by_name(serve, way, store):
    rows = series("frames", 3)
    async with serve(default_model="frames") as service:
        inputs = {"gain": rows[:, 4].tolist(), "audio": rows[:, :4].tolist()}
        reply = await service.raw("a", json.dumps({"inputs": inputs, "at": 0}).encode())
        equal("frames", reply.numbers, graphs.reference("frames", rows))
        refused = await service.raw("a", json.dumps({"inputs": {"gain": [1]}, "at": 3}).encode())
        assert "the input 'audio' is missing" in refused.problem["detail"]


@in_memory
async def test_a_bulk_request_has_inputs_and_outputs_by_name(serve_http, store):
    """Chunks of several lengths, a session that is named twice, and a chunk that is wrong."""
    rows = [series("frames", steps, seed) for seed, steps in enumerate((2, 3, 1, 2))]
    audio, gain = [part[:, :4].tolist() for part in rows], [part[:, 4].tolist() for part in rows]
    gain[2] = [1, 1]
    body = {"sessions": ["a", "b", "c", "a"], "model": "frames", "inputs": {"audio": audio, "gain": gain}}
    async with serve_http() as service:
        answer = (await service.http.post("/observations", json=body | {"at": [0, 0, 0, 2]})).json()
        assert list(answer) == ["positions", "epochs", "outputs", "replayed", "errors"]
        assert answer["positions"] == [2, 3, None, 4]
        assert "inputs.gain has 2 observations, inputs.audio has 1" in answer["errors"]["2"]["detail"]
        for parts in ([0, 3], [1]):
            want = graphs.reference("frames", np.concatenate([rows[i] for i in parts]))
            energy = np.concatenate([answer["outputs"]["energy"][i] for i in parts])
            assert_allclose(energy, want[:, :1], rtol=1e-5)
            loud = np.concatenate([answer["outputs"]["loud"][i] for i in parts])
            assert loud.tolist() == want[:, 2:].tolist()
        assert answer["outputs"]["peak"][2] is None
        at = {"sessions": ["b", "a"], "at": [0, 2], "model": "frames"}
        inputs = {"gain": [gain[1], gain[3]], "audio": [audio[1], audio[3]]}
        again = (await service.http.post("/observations", json=at | {"inputs": inputs})).json()
        assert (again["replayed"], again["outputs"]["loud"]) == ([0, 1], answer["outputs"]["loud"][1::2])
        flat = {"sessions": ["d"], "model": "frames", "observations": [rows[0].tolist()]}
        of_rows = (await service.http.post("/observations", json=flat)).json()["outputs"]
        assert of_rows == {name: [column[0]] for name, column in answer["outputs"].items()}


WRONG_BULK_INPUTS = [
    ({"inputs": {}}, "inputs is empty"),
    ({"inputs": {"audio": [[[1, 2, 3, 4]]]}}, "inputs.audio has 1 entries for 2 sessions"),
    ({"inputs": {"gain": [[1], [1]]}, "observations": [1, 1]}, "observations or inputs, not both"),
    ({}, "the request has no observations"),
]


@in_memory
@pytest.mark.parametrize(("columns", "problem"), WRONG_BULK_INPUTS)
async def test_a_bulk_request_with_wrong_inputs_is_refused(serve_http, store, columns, problem):
    async with serve_http() as service:
        body = {"sessions": ["a", "b"], "model": "frames"} | columns
        response = await service.http.post("/observations", json=body)
        assert response.status_code == 422
        assert problem in response.json()["detail"]


@in_memory
async def test_wrong_inputs_of_a_session_in_a_bulk_request_fail_alone(serve_http, store):
    problems = {
        0: (1, [1], "inputs.audio needs a list of steps"),
        1: ([[1, 2, 3]], [1], "input 'audio' has the shape [4], not [3]"),
        2: ([[1, 2, "x", 4]], [1], "inputs.audio has a value that is not a number"),
        3: ([[1, 2, None, 4]], [1], "inputs.audio has a value that is not a number"),
        4: ([], [], "the chunk is empty"),
    }
    audio, gain = (
        [entry[i] for entry in problems.values()] + good for i, good in ((0, [[[1, 2, 3, 4]]]), (1, [[1]]))
    )
    async with serve_http() as service:
        body = {"sessions": list("abcdef"), "model": "frames", "inputs": {"audio": audio, "gain": gain}}
        answer = (await service.http.post("/observations", json=body)).json()
        assert answer["positions"] == [None] * 5 + [1]
        for i, (_, _, problem) in problems.items():
            assert problem in answer["errors"][str(i)]["detail"]


@in_memory
async def test_the_bulk_method_of_the_client_answers_outputs_by_name(start_hot, graph_folder, store):
    async with (
        start_hot(models=(graph_folder,), default_model="characters") as server,
        carryover.AsyncCarryover(f"http://127.0.0.1:{server.port}") as service,
    ):
        for at, steps in ((0, 1), (1, 3)):  # each chunk a row, and each a list of rows
            rows = {name: series("characters", 4)[at : at + steps] for name in "ab"}
            answers = await service.advance(rows)
            want = graphs.reference("characters", series("characters", 4))[at : at + steps]
            for name in "ab":
                assert_allclose(answers[name].outputs["logits"], want[:, :30], atol=1e-6)
                assert np.array(answers[name].outputs["best"]).tolist() == want[:, 30].tolist()


WRONG_INPUTS = [
    ({"audio": [[1, 2, 3, 4]]}, "the input 'gain' is missing; model 'frames' takes audio, gain"),
    ({"audio": [[1, 2, 3, 4]], "gain": [1], "pitch": [1]}, "there is no input 'pitch'"),
    ({"audio": [[1, 2, 3]], "gain": [1]}, "input 'audio' has the shape [4], not [3]"),
    ({"audio": [[1, 2, 3, 4]], "gain": [1, 2]}, "inputs.gain has 2 observations, inputs.audio has 1"),
    ({"audio": [[1, 2], [3]], "gain": [1, 2]}, "inputs.audio has rows that differ in shape"),
    ({"audio": [["1", 2, 3, 4]], "gain": [1]}, "inputs.audio has a value that is not a number"),
    ({"audio": [[1e39, 2, 3, 4]], "gain": [1]}, "inputs.audio has a number that is not a finite float32"),
    ({"audio": [], "gain": []}, "the chunk is empty"),
    ({}, "inputs is empty"),
]


@in_memory
@pytest.mark.parametrize(("inputs", "problem"), WRONG_INPUTS)
async def test_wrong_inputs_are_refused_by_name(serve_http, store, inputs, problem):
    async with serve_http() as service:
        response = await service.http.post(
            "/sessions/a/observations", json={"inputs": inputs, "model": "frames"}
        )
        assert response.status_code == 422
        assert problem in response.json()["detail"]
        both = {"inputs": {"gain": [1]}, "observations": [1]}
        assert (await service.http.post("/sessions/a/observations", json=both)).status_code == 422
        assert (await service.http.get("/sessions/a")).status_code == 404


@in_memory
async def test_a_forecast_needs_an_artifact_that_says_what_is_fed_back(serve_http, store):
    rows = series("gru", 6)
    async with serve_http() as service:
        await service.advance("a", series("frames", 2), model="frames")
        refused = await service.http.get("/sessions/a/forecast?steps=2")
        assert (refused.status_code, refused.json()["missing"]) == (422, ["audio", "gain"])
        answer = await service.advance("b", rows, 0, model="gru", horizon=3)
        fed = np.concatenate([rows, answer.forecast[:2]])
        equal("gru", answer.forecast, graphs.reference("gru", fed)[5:])
        whole = await service.advance("c", np.array([[5]]), 0, horizon=3)
        assert whole.forecast.tolist() == [[2], [4], [8]]


@in_memory
async def test_a_forecast_that_feeds_back_the_impossible_fails_alone(start_http, store, tmp_path):
    artifact = graphs.counter()
    (port,) = artifact.inputs
    bounded = replace(artifact.signature, inputs=(replace(port, range=(-10, 10)),))
    save(replace(artifact, signature=bounded), tmp_path / "zoo" / "counter")
    async with start_http(models=(tmp_path / "zoo",), default_model="counter") as service:
        await service.advance("a", np.array([[5]]), 0)
        await service.advance("b", np.array([[3]]), 0)
        async with held(service.engine) as release:
            paths = [f"/sessions/{name}/forecast?steps=6" for name in "ab"]
            calls = [asyncio.ensure_future(service.http.get(path)) for path in paths]
            await queued(service.engine, "ab")
            release.set()
            a, b = await asyncio.gather(*calls)
        assert (a.status_code, b.status_code) == (500, 200)  # 2, 4, 8, 16, which is not from -10 to 10
        assert b.json()["forecast"] == [[0]] * 6
        assert (await service.http.get("/sessions/a/forecast?steps=3")).json()["forecast"] == [[2], [4], [8]]


@in_memory
async def test_sessions_of_a_graph_cannot_learn(serve_http, store):
    async with serve_http() as service:
        response = await service.http.post("/sessions", json={"model": "gru", "level": 0.9})
        assert response.status_code == 422
        assert "cannot learn" in response.json()["detail"]


@in_memory
async def test_a_run_that_does_not_end_fails_and_the_server_goes_on(serve_http, store):
    async with serve_http(run_seconds=0.2) as service:
        await service.advance("stuck", [[-1.0]], 0, model="endless")
        began = time.monotonic()
        for _ in range(2):
            reply = await service.advance("stuck", [[1.0]], 1)
            assert reply.status == 500
            assert "took more than 0.2 seconds; the session was not advanced" in reply.problem["detail"]
        assert time.monotonic() - began < 60
        assert (await service.advance("stuck", [[-1.0]], 1)).position == 2
        assert (await service.advance("a", np.array([[1]]), 0)).numbers.tolist() == [[-2]]


@in_memory
async def test_a_batch_of_graphs_is_one_run(serve_http, store):
    names = [f"s{i}" for i in range(8)]
    async with serve_http() as service:
        net = service.engine.residents.models.current["counter"].forecaster.net
        runs, call = [], net._call
        net._call = lambda observations, rows: runs.append(len(rows)) or call(observations, rows)
        async with held(service.engine) as release:
            posts = [asyncio.ensure_future(service.advance(name, np.array([[i]]), 0))
                     for i, name in enumerate(names)]  # fmt: skip
            await queued(service.engine, names)
            release.set()
            replies = await asyncio.gather(*posts)
        assert max(runs) >= 7  # the first may have slipped into a tick of its own
        assert [reply.numbers.tolist() for reply in replies] == [[[i - 3]] for i in range(8)]


@in_memory
async def test_a_model_says_what_goes_in_and_what_comes_out(serve_http, start_http, store):
    async with serve_http() as service:
        model = (await service.http.get("/models/characters")).json()
        assert model["inputs"] == [
            {
                "name": "token", "unit": None, "dtype": "int64", "shape": [], "columns": None,
                "range": [0, 29], "mean": None, "std": None,
            }
        ]  # fmt: skip
        assert [(port["name"], port["dtype"], port["shape"], port["kind"]) for port in model["outputs"]] == [
            ("logits", "float32", [30], "logits"),
            ("best", "int64", [], "number"),
            ("likely", "bool", [], "number"),
        ]
        assert (model["hidden_size"], model["can_forecast"]) == (None, True)
        assert model["feedback"] == {"token": "best"}
        assert model["states"] == [
            {"input": name, "output": f"{name}_out", "dtype": "float32", "shape": [1, 12]} for name in "hc"
        ]
        assert model["carry_bytes"] == 4 * (12 + 12 + 2 * 32)
    async with start_http() as service:
        model = (await service.http.get("/models/pair")).json()
        assert [port["name"] for port in model["inputs"]] == ["a", "b", "c"]
        assert (model["feedback"], model["states"]) == ({"a": "a", "b": "b", "c": "c"}, [])
        assert [(port["name"], port["shape"]) for port in model["outputs"]] == [
            ("c", []),
            ("a", []),
            ("b", []),
        ]


@in_memory
async def test_numbers_beyond_float32_are_exact_beside_a_model_that_rounds_them(
    start_http, store, graph_folder, zoo_folder
):
    """A server of both kinds: the same numbers are rounded for one model, and not for the other."""
    odd = 2**24 + 1
    async with start_http(models=(graph_folder / "counter", zoo_folder)) as service:
        await service.advance("a", [[odd]], 0, model="counter")
        assert (await service.advance("a", [[odd]], 0)).replayed
        assert (await service.advance("a", [[odd - 1]], 0)).status == 409
        await service.advance("b", [[float(odd)]], 0, model="sine")
        assert (await service.advance("b", [[odd - 1]], 0)).replayed  # the same float32
        many = {"sessions": ["c", "b"], "observations": [[odd], [0.5]]}
        answer = (await service.http.post("/observations", json=many | {"model": None})).json()
        assert answer["positions"][1] == 2


def test_a_carry_over_the_limit_is_refused_with_the_number(graph_folder):
    settings = Settings(models=(graph_folder / "characters",), carry_bytes=352)
    (loaded,) = ModelLibrary(settings).load()
    assert loaded.carry_nbytes == 352
    small = Settings(models=(graph_folder / "characters",), carry_bytes=351)
    with pytest.raises(
        ConfigError, match="has 352 bytes, at most 351 are allowed; set CARRYOVER_CARRY_BYTES"
    ):
        ModelLibrary(small).load()
