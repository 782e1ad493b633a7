"""Bodies as clients send them: compressed, or with a byte order mark; and HEAD, which has none."""

import gzip
import json
import zlib

import pytest
from websockets.asyncio.client import connect

from app.codec.limits import BYTE_ORDER_MARK
from tests.helpers.ways import check_problem

pytestmark = pytest.mark.anyio

CHUNK = b'{"observations": [0.5]}'
BULK = b'{"sessions": ["b"], "observations": [0.5]}'
POSTS = [
    ("/sessions", b'{"id": "new"}', 201),
    ("/sessions/a/observations", CHUNK, 200),
    ("/sessions/a/forecast", b'{"steps": 2}', 200),
    ("/sessions/a/fork", b'{"id": "fork"}', 201),
    ("/sessions/a/reset", b"{}", 200),
    ("/observations", BULK, 200),
]


@pytest.fixture
def store() -> str:
    return "memory"


async def test_a_compressed_body_is_accepted_on_every_route(start_both):
    async with start_both() as service:
        await service.advance("a", [[0.5]])
        for path, body, status in POSTS:
            response = await service.http.post(
                path, content=gzip.compress(body), headers={"content-encoding": "gzip"}
            )
            assert response.status_code == status, (path, response.text)
        assert (await service.session("a"))["position"] == 2
        response = await service.http.post(
            "/sessions/a/observations", content=zlib.compress(CHUNK), headers={"content-encoding": "deflate"}
        )
        assert response.json()["position"] == 3
        state = (await service.http.get("/sessions/a/state")).content
        response = await service.http.put(
            "/sessions/c/state", content=gzip.compress(state), headers={"content-encoding": "gzip"}
        )
        assert response.status_code == 200, response.text
        assert response.json()["position"] == 3


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", CHUNK, 415),
        ("gzip, gzip", CHUNK, 415),
        ("gzip", CHUNK, 400),
        ("gzip", gzip.compress(CHUNK)[:-4], 400),
        ("gzip", gzip.compress(b" " * 100_000), 413),
        ("identity", CHUNK, 200),
    ],
    ids=["br", "twice", "not gzip", "cut short", "too large", "identity"],
)
async def test_a_body_that_cannot_be_decompressed_is_refused(start_both, encoding, body, status):
    async with start_both(body_bytes=10_000) as service:
        for path in ("/sessions/a/observations", "/sessions/a/reset", "/observations"):
            response = await service.http.post(path, content=body, headers={"content-encoding": encoding})
            if status != 200:
                assert response.status_code == status, (path, response.text)
                check_problem(response)
        listed = (await service.http.get("/sessions")).json()["total"]
        assert listed == (status == 200)


async def test_a_byte_order_mark_before_json_is_ignored(start_both):
    async with start_both() as service:
        await service.advance("a", [[0.5]])
        for path, body, status in POSTS:
            response = await service.http.post(path, content=BYTE_ORDER_MARK + body)
            assert response.status_code == status, (path, response.text)
        gapped = await service.http.post("/sessions/a/observations", content=BYTE_ORDER_MARK + b'{"skip": 1}')
        assert gapped.status_code == 200
        refused = await service.http.post("/sessions/a/observations", content=2 * BYTE_ORDER_MARK + CHUNK)
        assert refused.status_code == 400


async def test_a_byte_order_mark_in_a_text_message_is_ignored(start_hot):
    async with (
        start_hot() as service,
        connect(f"ws://127.0.0.1:{service.port}/sessions/a/stream") as socket,
    ):
        await socket.recv()
        await socket.send((BYTE_ORDER_MARK + CHUNK).decode())
        assert json.loads(await socket.recv())["position"] == 1


async def test_head_answers_every_get_route_as_get_without_the_body(start_both):
    async with start_both() as service:
        await service.advance("a", [[0.5]])
        paths = [path for path, item in service.app.openapi()["paths"].items() if "get" in item]
        values = {"{id}": "a", "{name}": "sine", "{model}": "sine", "{version}": "1"}
        assert len(paths) > 15
        for path in [*paths, "/", "/docs", "/openapi.json"]:
            for name, value in values.items():
                path = path.replace(name, value)
            path += "?steps=2" if path.endswith("/forecast") else ""
            head = await service.http.head(path)
            assert head.content == b""
            if path == "/events":  # whose GET does not end
                assert (head.status_code, head.headers["content-type"]) == (
                    200,
                    "text/event-stream; charset=utf-8",
                )
                continue
            get = await service.http.get(path)
            assert head.status_code == get.status_code, path
            assert head.headers.get("content-type") == get.headers.get("content-type")
            if path != "/metrics":  # which counts these requests
                assert head.headers["content-length"] == get.headers["content-length"], path
        assert (await service.http.head("/sessions/a/reset")).status_code == 405
        assert (await service.advance("a", [[0.5]])).position == 2
        assert service.engine.metrics.requests["/sessions/{id}", 200] == 2


@pytest.mark.parametrize(
    ("path", "changes", "field", "text"),
    [
        ("/v1/completions", {"prompt": 5}, "prompt", "a valid string, or: Input should be a valid array"),
        ("/v1/completions", {"prompt": [1, "x"]}, "prompt.1", "Input should be a valid integer"),
        ("/v1/completions", {"prompt": "a", "stop": ["a", 7]}, "stop.1", "Input should be a valid string"),
        (
            "/v1/completions",
            {"prompt": "a", "stop": 7},
            "stop",
            "a valid string, or: Input should be a valid",
        ),
        ("/v1/completions", {"prompt": "a", "seed": "x"}, "seed", "Input should be a valid integer"),
        ("/sessions/t/generate", {"steps": 1, "prompt": {}}, "prompt", "valid string, or: Input should be a"),
        (
            "/sessions/t/generate",
            {"steps": 1, "stop": ["a", {}]},
            "stop.1",
            "valid string, or: Input should be",
        ),
        ("/sessions/t/generate", {"prompt": "a"}, "steps", "Field required"),
        ("/sessions", {"alert": {"above": 9, "kind": "odd"}}, "alert.kind", "Input should be"),
        ("/sessions", {"labels": {"site": 5}}, "labels.site", "Input should be a valid string"),
        ("/sessions", {"alert": {"above": 1, "refractory": {}}}, "alert.refractory", "Input should be"),
        ("/sessions", {"ttl_seconds": {}}, "ttl_seconds", "Input should be a valid number"),
    ],
)
async def test_the_field_that_is_refused_is_named_as_in_the_body(start_both, path, changes, field, text):
    """Where a value may be of several types, pydantic puts each of them into the place of its error."""
    async with start_both() as service:
        response = await service.http.post(path, json=changes)
        assert response.status_code in (400, 422), response.text
        problem = response.json()
        named = problem["error"]["param"] if path.startswith("/v1") else problem["field"]
        assert (named, text in response.text) == (field, True), response.text


async def test_a_number_of_thousands_of_digits_in_a_body_that_is_refused_is_no_crash(start_both):
    async with start_both() as service:
        response = await service.http.post(
            "/sessions", content=b'{"id": 5, "ttl_seconds": %s}' % (b"9" * 5000)
        )
        assert response.status_code in (400, 422), check_problem(response)
