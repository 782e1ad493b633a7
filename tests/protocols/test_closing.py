"""A client reads why it was refused, whichever client it is and however much it still sends."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import shutil
import subprocess
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress

import aiohttp
import carryover
import httpx
import pytest
import requests

from app.protocols import lingering
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.helpers.raw import chunked, connect, request
from tests.protocols.test_http import held

pytestmark = pytest.mark.anyio

LIMIT = 2**20
LARGE = b'{"observations": [' + b"0.0," * 3_000_000 + b"0]}"  # 12 MB


@pytest.fixture
def store() -> str:
    return "memory"


def pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


def by_urllib(url: str, method: str, body: bytes, headers: dict[str, str], chunks: bool) -> int:
    data = pieces(body) if chunks else body
    extra = {"transfer-encoding": "chunked"} if chunks else {}
    request = urllib.request.Request(url, data, headers | extra, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(json.loads(error.read())["status"])


def by_requests(url: str, method: str, body: bytes, headers: dict[str, str], chunks: bool) -> int:
    data = pieces(body) if chunks else body
    for keep_alive in (False, True):
        more = {} if keep_alive else {"connection": "close"}
        answer = requests.request(method, url, data=data, headers=headers | more, timeout=60)
        assert answer.json()["status"] == answer.status_code
        data = pieces(body) if chunks else body
    return answer.status_code


def by_httpx(url: str, method: str, body: bytes, headers: dict[str, str], chunks: bool) -> int:
    answer = httpx.request(method, url, content=pieces(body) if chunks else body, headers=headers, timeout=60)
    assert answer.json()["status"] == answer.status_code
    return answer.status_code


def by_aiohttp(url: str, method: str, body: bytes, headers: dict[str, str], chunks: bool) -> int:
    async def parts():
        for piece in pieces(body):
            yield piece

    async def send() -> int:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
            session.request(
                method, url, data=parts() if chunks else io.BytesIO(body), headers=headers
            ) as answer,
        ):
            problem = await answer.json(content_type=None)
            assert problem["status"] == answer.status
            return answer.status

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its connections close with bytes yet to be sent
        status = asyncio.run(send())
        gc.collect()
    return status


def by_curl(url: str, method: str, body: bytes, headers: dict[str, str], chunks: bool) -> int:
    command = ["curl", "-s", "-X", method, "--data-binary", "@-", "-w", "\n%{http_code}", url]
    for name, value in (headers | ({"transfer-encoding": "chunked"} if chunks else {})).items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run(command, input=body, capture_output=True, timeout=60, check=False)
    text, _, status = done.stdout.decode().rpartition("\n")
    assert done.returncode == 0, done.returncode
    assert json.loads(text)["status"] == int(status)
    return int(status)


def by_curl_without_expect(url: str, method: str, body: bytes, headers: dict[str, str], chunks: bool) -> int:
    return by_curl(url, method, body, headers | {"expect": ""}, chunks)


CLIENTS = [by_urllib, by_requests, by_httpx, by_aiohttp]
CLIENTS += [by_curl, by_curl_without_expect] if shutil.which("curl") else []
Client = Callable[[str, str, bytes, dict[str, str], bool], int]


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
async def test_a_client_reads_the_refusal_of_a_large_body(start_hot, tmp_path, client: Client, chunks):
    keys = Keys(tmp_path)
    keys.add("acme")
    keys.add("reader", "monitor")
    acme, reader = keys.headers("acme"), keys.headers("reader")
    over_limit = [
        ("POST", "/sessions/s/observations", acme, 413),
        ("POST", "/observations", acme, 413),
        ("POST", "/sessions", acme, 413),
        ("PUT", "/sessions/s/state", acme, 413),
        ("POST", "/sessions/s/observations", {}, 401),
        ("POST", "/sessions", {}, 401),
        ("POST", "/sessions", reader, 403),
        ("POST", "/sessions", acme | {"x-large": "a" * 70_000}, 431),
    ]
    within_limit = [("POST", "/none", acme, 404), ("POST", "/health/live", acme, 405)]
    for limit, cases in ((LIMIT, over_limit), (2 * len(LARGE), within_limit)):
        async with start_hot(api_keys_file=keys.path, body_bytes=limit) as service:
            for method, path, headers, status in cases:
                url = f"http://127.0.0.1:{service.port}{path}"
                seen = await asyncio.to_thread(client, url, method, LARGE, dict(headers), chunks)
                assert (path, seen) == (path, status)


async def test_our_own_client_reads_the_refusal_of_a_large_body(start_hot):
    async with start_hot(body_bytes=LIMIT) as service:

        def send() -> None:
            with carryover.Carryover(f"http://127.0.0.1:{service.port}") as client:
                client.session("s").advance([0.123456789] * 300_000)

        with pytest.raises(carryover.CarryoverError) as refused:
            await asyncio.to_thread(send)
        assert getattr(refused.value, "status", None) == 413


async def test_a_request_that_takes_too_long_reads_408_while_it_still_sends(start_hot):
    async with start_hot(request_seconds=1) as service:
        for path in ("/sessions/s/observations", "/sessions"):
            async with connect(service.port) as connection:
                await connection.send(request("POST", path, b" " * 10**6)[:-900_000])
                sending = asyncio.ensure_future(drip(connection))
                answer = await connection.answer()
                sending.cancel()
                assert (answer.status, answer.headers["content-type"]) == (408, "application/problem+json")
                assert answer.headers["connection"] == "close"


async def drip(connection) -> None:
    while True:
        await connection.send(b" " * 1000)
        await asyncio.sleep(0.05)


async def test_invalid_bytes_are_refused_after_the_answers_of_earlier_requests(start_hot):
    chunk = request("POST", "/sessions/s/observations", b'{"observations":[0.5]}')
    for before in (chunk * 2, chunk + request("GET", "/sessions/s"), request("GET", "/sessions/s") + chunk):
        async with start_hot() as service, connect(service.port) as connection:
            await service.http.post("/sessions/s/observations", json={"observations": [0.5]})
            waiting, release = held(service)
            await connection.send(before + b"NONSENSE\r\n\r\n")
            await until(lambda: len(waiting) >= 1)  # noqa: B023
            await connection.send(b"more of it", chunk)
            release()
            answers = await connection.answers()
            assert [answer.status for answer in answers] == [200, 200, 400]
            assert answers[2].headers["content-type"] == "application/problem+json"
            assert answers[2].json["status"] == 400
            assert (await service.session("s"))["position"] == 1 + before.count(b"POST")


async def test_an_answered_request_whose_body_never_ends_gets_no_second_answer(start_hot):
    async with start_hot(request_seconds=1, body_bytes=2048) as service:
        for path in ("/sessions/s/observations", "/sessions"):
            async with connect(service.port) as connection:
                await connection.send(request("POST", path, b" " * 9000)[:-1000])
                assert [answer.status for answer in await connection.answers()] == [413]


async def test_a_client_that_sends_on_for_ever_is_cut_off(start_hot, monkeypatch):
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.5)
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(b"NONSENSE\r\n\r\n")
        assert (await connection.answer()).status == 400
        sending = asyncio.ensure_future(drip(connection))
        await asyncio.wait([sending], timeout=10)
        assert sending.done(), "it still reads"
        assert isinstance(sending.exception(), ConnectionError)


async def test_a_client_that_sends_nothing_more_is_cut_off(start_hot, monkeypatch):
    monkeypatch.setattr(lingering, "LINGER_IDLE_SECONDS", 0.2)
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(b"NONSENSE\r\n\r\n")
        assert (await connection.answer()).status == 400
        connections = service.app.state.authenticator.connections
        with suppress(TimeoutError):
            await until(lambda: connections.open == 0, 20)
        assert connections.open == 0


async def test_a_client_that_waits_for_continue_is_refused_without_sending_and_closed(start_hot):
    async with start_hot(body_bytes=2048) as service, connect(service.port) as connection:
        head = request("POST", "/sessions", b"x" * 9000, "expect: 100-continue").partition(b"\r\n\r\n")[0]
        await connection.send(head + b"\r\n\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await connection.rest() == b""


async def test_a_client_that_was_told_to_continue_keeps_its_connection(start_hot):
    async with start_hot() as service, connect(service.port) as connection:
        whole = request("POST", "/sessions/s/observations", b'{"observations":[0.5]}', "expect: 100-continue")
        head, _, body = whole.partition(b"\r\n\r\n")
        await connection.send(head + b"\r\n\r\n")
        assert (await connection.answer()).status == 100
        await connection.send(body)
        answer = await connection.answer()
        assert (answer.status, answer.headers.get("connection")) == (200, None)


@pytest.mark.parametrize("path", ["/sessions/s/observations", "/sessions"])
async def test_a_request_that_never_ends_does_not_delay_a_stop(start_hot, path, monkeypatch):
    monkeypatch.setattr(lingering, "LINGER_IDLE_SECONDS", 120.0)  # what counts is the time at a stop
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(request("POST", path, b"{" * 100)[:-99])
        for protocol in list(service.server.server_state.connections):
            protocol.shutdown()
        answer = await connection.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        async with asyncio.timeout(20):
            assert await connection.rest() == b""


@pytest.mark.parametrize("sent", [b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01", b"GET /\x00 HTTP/1.1\r\n\r\n"])
async def test_errors_of_the_parser_are_problems(start_hot, sent):
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(sent)
        (answer,) = await connection.answers()
        assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
        assert answer.json["type"] == "urn:carryover:bad-request"


async def test_a_chunked_body_that_is_broken_is_refused_once(start_hot):
    for path in ("/sessions/s/observations", "/sessions"):
        async with start_hot() as service, connect(service.port) as connection:
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            await connection.send(head + chunked([b"{"])[:-5] + b"nonsense\r\n")
            assert [answer.status for answer in await connection.answers()] == [400]
