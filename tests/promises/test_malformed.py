"""Bad input of every kind gets a clear refusal of one shape, and moves nothing."""

import json

import numpy as np
import pytest

from app.codec import bulk, frames, limits
from app.errors import Malformed, Unprocessable
from tests.helpers.ways import AsgiRoute, BinarySocket, HotRoute, HttpRoute, TextSocket, check_problem
from tests.helpers.zoo import one_pass, series
from tests.promises.test_promises import equal

pytestmark = pytest.mark.anyio

CHUNKS = {
    "nothing": (b"", 400, {}),
    "no JSON": (b"observations=1", 400, {}),
    "cut off": (b'{"observations": [1, 2', 400, {}),
    "more behind": (b'{"observations": [1]} {}', 400, {}),
    "not UTF-8": (b'{"observations": [1], "epoch": "\xff"}', 400, {}),
    "half a surrogate": (rb'{"observations": [1], "model": "\ud800"}', 400, {}),
    "deep": (b"[" * 100_000, 422, {}),
    "deep inside": (b'{"observations": ' + b"[" * 100_000, 422, {"row": 0, "column": 0}),
    "null": (b"null", 422, {}),
    "list": (b"[[1]]", 422, {}),
    "no observations": (b'{"at": 0}', 422, {}),
    "observations null": (b'{"observations": null}', 422, {}),
    "observations a number": (b'{"observations": 5}', 422, {"field": "observations"}),
    "observations an object": (b'{"observations": {"a": 1}}', 422, {"field": "observations"}),
    "empty": (b'{"observations": []}', 422, {}),
    "empty row": (b'{"observations": [[]]}', 422, {"row": 0}),
    "empty first row": (b'{"observations": [[], [1]]}', 422, {"row": 1}),
    "ragged": (b'{"observations": [[1], [1], [1, 2]]}', 422, {"row": 2}),
    "flat and not": (b'{"observations": [1, [1]]}', 422, {"row": 1}),
    "three deep": (b'{"observations": [[[1]]]}', 422, {"row": 0, "column": 0}),
    "too wide": (b'{"observations": [[1, 2]]}', 422, {"row": 0}),
    "text": (b'{"observations": [[1], ["2"]]}', 422, {"row": 1, "column": 0}),
    "true": (b'{"observations": [[1], [true]]}', 422, {"row": 1, "column": 0}),
    "null row": (b'{"observations": [[1], null]}', 422, {"row": 1}),
    "object": (b'{"observations": [[{}]]}', 422, {"row": 0, "column": 0}),
    "NaN": (b'{"observations": [[1], [1], [NaN]]}', 422, {"row": 2, "column": 0}),
    "Infinity": (b'{"observations": [1, Infinity]}', 422, {"row": 1, "column": 0}),
    "-Infinity": (b'{"observations": [-Infinity]}', 422, {"row": 0, "column": 0}),
    "1e39": (b'{"observations": [0, 1e39]}', 422, {"row": 1, "column": 0}),
    "-1e39": (b'{"observations": [0, -1e39]}', 422, {"row": 1, "column": 0}),
    "1e999": (b'{"observations": [0, 1e999]}', 422, {"row": 1, "column": 0}),
    "a long integer": (b'{"observations": [%b]}' % (b"9" * 5000), 422, {"row": 0, "column": 0}),
    "at negative": (b'{"observations": [1], "at": -1}', 422, {"field": "at"}),
    "at huge": (b'{"observations": [1], "at": 1%b}' % (b"0" * 30), 422, {"field": "at"}),
    "at a fraction": (b'{"observations": [1], "at": 0.5}', 422, {"field": "at"}),
    "at a text": (b'{"observations": [1], "at": "0"}', 422, {"field": "at"}),
    "at true": (b'{"observations": [1], "at": true}', 422, {"field": "at"}),
    "horizon negative": (b'{"observations": [1], "horizon": -1}', 422, {"field": "horizon"}),
    "horizon too far": (b'{"observations": [1], "horizon": 10001}', 422, {"field": "horizon"}),
    "horizon huge": (b'{"observations": [1], "horizon": 1%b}' % (b"0" * 30), 422, {"field": "horizon"}),
    "epoch a number": (b'{"observations": [1], "epoch": 5}', 422, {"field": "epoch"}),
    "model a number": (b'{"observations": [1], "model": 5}', 422, {"field": "model"}),
    "misspelt field": (b'{"observations": [1], "horizn": 5}', 422, {}),
}


@pytest.mark.parametrize("way", [AsgiRoute, HttpRoute, HotRoute, TextSocket], indirect=True)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_a_malformed_chunk_is_refused_and_moves_nothing(start, artifacts, way):
    whole = series("sine", 6)
    async with start() as service:
        await service.advance("a", whole[:3], 0)
        before = await service.session("a")
        for what, (body, status, extra) in CHUNKS.items():
            if way is TextSocket and what == "not UTF-8":
                continue  # closes the socket: tests/protocols/test_socket_frames.py
            for session in ("a", "new"):
                reply = await service.raw(session, body)
                assert reply.status == status, (what, reply)
                assert extra.items() <= reply.problem.items(), (what, reply.problem)
                assert len(reply.problem["detail"]) < 400, what
        assert await service.session("a") == before
        assert (await service.http.get("/sessions")).json()["total"] == 1
        equal((await service.advance("a", whole[3:], 3)).numbers, one_pass(artifacts["sine"], whole)[3:])


@pytest.mark.parametrize("way", [BinarySocket], indirect=True)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("rows", [[[float("nan")]], [[float("inf")]], [[1.0, 2.0]]])
async def test_a_bad_binary_chunk_is_refused_and_moves_nothing(start, rows):
    async with start() as service:
        await service.advance("a", [[0.5]], 0)
        reply = await service.advance("a", rows, 1)
        assert (reply.status, reply.problem["row"]) == (422, 0)
        assert (await service.advance("a", [[0.5]], 1)).position == 2


async def test_a_form_as_curl_declares_it_is_read_as_json(start_hot):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with start_hot() as service:
        for path in ("/sessions/a/observations", "/sessions/a/reset"):
            content = json.dumps({"observations": [0.5]} if "obs" in path else {}).encode()
            assert (await service.http.post(path, content=content, headers=headers)).status_code == 200


@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_what_is_empty_or_no_id_is_told_what_it_should_be(start_http):
    async with start_http() as service:
        empty = await service.http.post("/sessions/a/observations", content=b" ")
        assert (empty.status_code, empty.json()["detail"]) == (400, "the body is empty")
        for path, body in (("/sessions/a%20b/reset", {}), ("/sessions", {"id": "a b"})):
            answer = await service.http.post(path, json=body)
            assert answer.status_code == 422
            assert "use 1 to 128 characters of A-Z a-z 0-9 . _ : -" in answer.json()["detail"]
            assert "Value error" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("GET", "/sessions/a/nowhere", None, 404),
        ("PUT", "/sessions", None, 405),
        ("GET", "/sessions/a/observations", None, 405),
        ("DELETE", "/models/sine", None, 405),
        ("GET", "/models/none", None, 404),
        ("GET", "/sessions?limit=0", None, 422),
        ("GET", "/sessions?limit=x", None, 422),
        ("GET", "/sessions?limit=1001", None, 422),
        ("GET", "/sessions?model=none", None, 404),
        ("GET", f"/sessions?after={'x' * 201}", None, 422),
        ("GET", "/sessions/a/forecast", None, 422),
        ("GET", "/sessions/a/forecast?steps=0", None, 422),
        ("GET", "/sessions/a/forecast?steps=1.5", None, 422),
        ("GET", "/sessions/a/forecast?steps=10001", None, 422),
        ("GET", f"/sessions/a/forecast?steps=1{'0' * 30}", None, 422),
        ("DELETE", "/sessions/a?at=-1", None, 422),
        ("DELETE", f"/sessions/a?at=1{'0' * 30}", None, 422),
        ("POST", "/sessions", b"[1]", 422),
        ("POST", "/sessions", b"{", 400),
        ("POST", "/sessions", b"\xff", 400),
        ("POST", "/sessions", rb'{"id": "\ud800"}', 400),
        ("POST", "/sessions", b'{"id": ""}', 422),
        ("POST", "/sessions", b'{"id": "a b"}', 422),
        ("POST", "/sessions", b'{"id": "a\\n"}', 422),
        ("POST", "/sessions", b'{"id": 5}', 422),
        ("POST", "/sessions", b'{"nme": "a"}', 422),
        ("POST", "/sessions", b'{"model": "none"}', 404),
        ("POST", "/sessions", b'{"ttl_seconds": 0}', 422),
        ("POST", "/sessions", b'{"ttl_seconds": NaN}', 422),
        ("POST", "/sessions", b'{"ttl_seconds": 1e400}', 422),
        ("POST", "/sessions", b'{"ttl_seconds": "60"}', 422),
        ("POST", "/sessions/a/reset", b'{"at": 1.5}', 422),
        ("POST", "/sessions/a/reset", b'{"at": %d}' % 10**30, 422),
        ("POST", "/sessions/a/reset", b'{"epoch": 1}', 422),
        ("POST", "/sessions/a/fork", b'{"id": "%b"}' % (b"x" * 129), 422),
        ("POST", "/sessions/none/fork", b"", 404),
        ("POST", "/sessions/none/reset", b"", 404),
        ("GET", "/sessions/none/forecast?steps=1", None, 404),
        ("DELETE", "/sessions/none", None, 404),
    ],
)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_everything_else_that_is_wrong_has_its_status_in_the_one_shape(
    start_http, method, path, body, status
):
    async with start_http() as service:
        await service.advance("a", [[0.5]], 0)
        before = await service.session("a")
        response = await service.http.request(method, path, content=body)
        assert response.status_code == status, response.text
        check_problem(response)
        assert await service.session("a") == before


@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_a_sentinel_in_a_session_that_learns_is_refused_with_its_row(start):
    async with start() as service:
        await service.http.post("/sessions", json={"id": "a", "learning": {"intervals": True}})
        await service.advance("a", [[0.5], [0.25]])
        for rows in ([[0.1], [1e30]], [[0.1], [-3e38]]):
            reply = await service.advance("a", rows)
            assert reply.status in (400, 422)
            assert "row 1" in json.dumps(reply.problem)
        long = [[0.1]] * 3_000
        reply = await service.advance("a", [*long[:2_990], [1e30], *long[:9]])
        assert reply.status in (400, 422)
        assert "row 2990" in json.dumps(reply.problem)
        body = {"sessions": ["b", "a"], "observations": [[[0.1]], [[0.1], [1e30]]]}
        answer = (await service.http.post("/observations", json=body)).json()
        assert (answer["positions"], answer["errors"]["1"]["row"]) == ([1, None], 1)
        assert (await service.session("a"))["position"] == 2


@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_the_shortest_decimal_of_the_largest_float32_is_accepted(start):
    async with start() as service:
        largest = [[3.4028235e38], [-3.4028235e38]]
        if service.name == "binary":  # which sends float32
            largest = np.array(largest).astype(np.float32)
        reply = await service.advance("a", largest)
        assert reply.status == 200, reply
        for number, positions in ((3.4028235e38, [1]), (3.4028236e38, [None])):
            body = {"sessions": ["b"], "observations": [number]}
            assert (await service.http.post("/observations", json=body)).json()["positions"] == positions
        body = {"sessions": ["b"], "observations": [3.4028235e38]}
        assert (await service.http.post("/observations", json=body)).json()["positions"] == [2]


@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("name", [".", ".."])
async def test_sessions_cannot_be_named_as_path_segments_that_browsers_remove(start, name):
    async with start() as service:
        path = name.replace(".", "%2e")
        for url in (f"/sessions/{path}/observations", f"/sessions/{path}/reset"):
            response = await service.http.post(url, json={"observations": [0.5]} if "obs" in url else {})
            assert response.status_code in (404, 422)
        for body in ({"id": name}, {"id": name, "ttl_seconds": 5}):
            assert (await service.http.post("/sessions", json=body)).status_code == 422
        await service.advance("a", [[0.5]])
        assert (await service.http.post("/sessions/a/fork", json={"id": name})).status_code == 422
        body = {"sessions": [name], "observations": [0.5]}
        answer = (await service.http.post("/observations", json=body)).json()
        assert answer["errors"]["0"]["status"] == 422
        assert (await service.http.get("/sessions")).json()["total"] == 1


async def test_a_crash_is_a_problem_too_and_tells_no_secrets(start_http):
    async with start_http() as service:
        service.engine.submit = lambda _: 1 / 0
        problem = check_problem(await service.http.get("/sessions/a"))
        assert problem["type"] == "urn:carryover:internal"
        assert "ZeroDivision" not in json.dumps(problem)


BULK = bulk.BulkDecoder(bulk.BulkLimits(9, limits.Limits(9, 9, 1)))
DEEP = {
    "text message": b'{"session": "a", "tag": ' + b"[" * 100_000,
    "bulk": b'{"sessions": ["a"], "observations": [1], "epochs": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
def test_ten_thousand_brackets_are_refused_by_every_parser_of_json(body):
    for parse in (
        lambda: frames.decode_text(body, None, limits.Limits(9, 9, 1)),
        lambda: BULK.decode(body, "", ""),
    ):
        with pytest.raises((Malformed, Unprocessable)):
            parse()
