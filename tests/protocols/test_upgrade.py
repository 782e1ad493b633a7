"""An offer of an upgrade never makes a body a request, whichever route it is for and however it is cut."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import pytest

from tests.helpers.raw import chunked, connect, frame, handshake, read_frame, request

pytestmark = pytest.mark.anyio

SMUGGLED = request("POST", "/sessions/smug/observations", b'{"observations":[0.5,0.25]}')
OFFERS = {
    "an unknown protocol": ("connection: Upgrade", "upgrade: foo"),
    "h2c": ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk"),
    "a websocket with a body": (
        "connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "several": ("connection: keep-alive, upgrade", "upgrade: h2c, websocket"),
    "and a close": ("connection: close, Upgrade", "upgrade: foo"),
}  # fmt: skip
ROUTES = {
    "hot": ("POST", "/sessions/outer/observations", (400,)),
    "bulk": ("POST", "/observations", (400, 415, 422)),
    "v2, hot": ("POST", "/v2/models/sine/infer", (400,)),
    "router": ("POST", "/sessions", (400, 422)),
    "router, no body read": ("POST", "/none", (404,)),
    "state": ("PUT", "/sessions/outer/state", (400, 415, 422)),
    "stream": ("GET", "/sessions/outer/stream", (404, 405)),
    "watch": ("GET", "/sessions/outer/watch", (404, 405)),
    "stream of many": ("GET", "/stream", (404, 405)),
    "health": ("GET", "/health/live", (200,)),
}


@pytest.fixture
def store() -> str:
    return "memory"


async def sessions(service) -> list[str]:
    listed = (await service.http.get("/sessions")).json()["sessions"]
    return [entry["session"] for entry in listed]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_the_body_of_a_request_that_offers_an_upgrade_is_its_body(start_hot, route, offer, coding):
    method, path, statuses = ROUTES[route]
    async with start_hot() as service, connect(service.port) as connection:
        if coding == "length":
            whole = request(method, path, SMUGGLED, *OFFERS[offer])
        else:
            lines = [f"{method} {path} HTTP/1.1", "host: localhost", "transfer-encoding: chunked"]
            whole = "\r\n".join([*lines, *OFFERS[offer], "", ""]).encode() + chunked([SMUGGLED])
        head, _, body = whole.partition(b"\r\n\r\n")
        await connection.send(head + b"\r\n\r\n", body)
        await connection.send(request("GET", "/health/live", b"", "connection: close"))
        answers = await connection.answers()
        assert answers[0].status in statuses
        assert [answer.status for answer in answers[1:]] == ([] if "close" in offer else [200])
        assert await sessions(service) == []


@pytest.mark.parametrize("route", ["hot", "router", "stream"])
async def test_no_cut_of_the_bytes_makes_a_body_a_request(start_hot, route):
    method, path, statuses = ROUTES[route]
    whole = request(method, path, SMUGGLED, *OFFERS["an unknown protocol"])
    whole += request("GET", "/health/live", b"", "connection: close")
    async with start_hot() as service:

        async def cut_at(place: int) -> list[int]:
            async with connect(service.port) as connection:
                await connection.send(whole[:place], whole[place:])
                return [answer.status for answer in await connection.answers()]

        for start in range(1, len(whole), 32):
            places = range(start, min(start + 32, len(whole)))
            for seen in await asyncio.gather(*map(cut_at, places)):
                assert seen[0] in statuses
                assert seen[1:] == [200]
        assert await sessions(service) == []


async def test_many_offers_in_one_read_are_as_many_requests(start_hot):
    one = request("GET", "/health/live", b"", *OFFERS["an unknown protocol"])
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(one * 50 + request("GET", "/health/live", b"", "connection: close"))
        assert [answer.status for answer in await connection.answers()] == [200] * 51


async def test_an_upgrade_behind_a_chunk_that_waits_for_its_answer_is_ignored(start_hot):
    chunk = request("POST", "/sessions/s/observations", b'{"observations":[0.5]}')
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(chunk + handshake("/sessions/s/stream"))
        assert (await connection.answer()).json["position"] == 1
        assert (await connection.answer()).status == 404


async def test_the_answer_to_a_chunk_that_offers_an_upgrade_is_the_usual_one(start_hot):
    body = b'{"observations":[0.5]}'
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(request("POST", "/sessions/s/observations", body, *OFFERS["h2c"]))
        assert (await connection.answer()).json["position"] == 1
        await connection.send(request("POST", "/sessions/s/reset", b'{"at":99}', *OFFERS["h2c"]))
        assert (await connection.answer()).status == 409


async def test_a_socket_that_is_refused_parses_nothing_more(start_hot):
    async with start_hot() as service:
        for path in ("/sessions/outer/stream?x=/", "/sessions//stream", "/stream/none"):
            async with connect(service.port) as connection:
                await connection.send(handshake(path) + SMUGGLED)
                answers = await connection.answers()
            assert len(answers) <= 1
        assert await sessions(service) == []


async def test_frames_that_come_with_the_handshake_are_taken(start_hot):
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(handshake("/sessions/s/stream") + frame(1, b'{"observations":[0.5]}'))
        assert (await connection.answer()).status == 101
        messages = [json.loads((await read_frame(connection))[1]) for _ in range(2)]
        assert messages[1]["position"] == 1


async def test_connect_is_refused(start_hot):
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(b"CONNECT evil:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", SMUGGLED)
        (answer,) = await connection.answers()
        assert (answer.status, answer.headers["content-type"]) == (405, "application/problem+json")
        assert await sessions(service) == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/sessions/r/reset", '{"at":999}', 409),
        ("/sessions", '{"id":"one"}', 201),
        ("/sessions/r/observations", '{"observations":[0.1]}', 200),
    ],
)
async def test_curls_offer_of_h2c_changes_nothing(start_hot, path, body, status):
    async with start_hot() as service:
        await service.http.post("/sessions/r/observations", json={"observations": [0.1, 0.2, 0.3]})
        command = [
            "curl",
            "-s",
            "--http2",
            "-d",
            body,
            "-w",
            "%{http_code}",
            f"{service.http.base_url}{path}",
        ]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
        assert done.stdout.endswith(str(status))
        if status == 201:
            assert '"one"' in done.stdout
