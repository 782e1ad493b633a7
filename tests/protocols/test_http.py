"""The hot route keeps HTTP's promises: order, bounds, hang-ups, shutdown; and answers as the router would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.protocols.closing import ClosingProtocol
from app.protocols.http import HotProtocol
from app.protocols.http_connection import HttpConnection
from app.protocols.ordered_answers import MAX_PIPELINED, OrderedAnswers
from app.protocols.plain_reading import PlainReading
from app.protocols.timed_connection import TimedConnection
from tests.helpers.faults import until
from tests.helpers.locked import Keys

pytestmark = pytest.mark.anyio


class Connection:
    """One HTTP/1.1 connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def closed(self) -> bool:
        """Whether the server has hung up, after whatever is still to read."""
        async with asyncio.timeout(20):
            await self.reader.read()
        return self.reader.at_eof()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def post(path: str, body: bytes, *more: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *more, "", ""]
    return "\r\n".join(head).encode() + body


def chunk(session: str, value: float = 0.5, at: int | None = None, *more: str) -> bytes:
    payload: dict[str, Any] = {"observations": [[value]]}
    if at is not None:
        payload["at"] = at
    return post(f"/sessions/{session}/observations", json.dumps(payload).encode(), *more)


def held(service: Any) -> tuple[list[Any], Callable[[], None]]:
    """Keep every job from the engine, in the list, until the returned function is called."""
    engine, waiting = service.engine, []
    submit = engine.submit
    engine.submit = waiting.append

    def release() -> None:
        engine.submit = submit
        for job in waiting:
            submit(job)

    return waiting, release


async def test_pipelined_chunks_are_answered_in_order(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        connection.send(b"".join(chunk("s", 0.1 * i, at=i) for i in range(50)))
        assert [(await connection.answer())[2]["position"] for _ in range(50)] == list(range(1, 51))


async def test_answers_leave_in_the_order_of_requests_even_when_a_later_one_is_ready_first(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        waiting, release = held(service)
        connection.send(chunk("a") + post("/sessions/a/observations", b"{"))
        await until(lambda: len(waiting) == 1)
        release()
        assert [(await connection.answer())[0] for _ in range(2)] == [200, 400]


async def test_chunks_and_other_requests_on_one_connection_keep_their_order(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        get = b"GET /sessions/s HTTP/1.1\r\nhost: localhost\r\n\r\n"
        connection.send(chunk("s") + get + chunk("s") + chunk("s") + get)
        bodies = [(await connection.answer())[2] for _ in range(5)]
        assert [body["position"] for body in bodies] == [1, 1, 2, 3, 3]
        assert ["predictions" in body for body in bodies] == [True, False, True, True, False]


async def test_a_client_that_pipelines_without_end_is_read_no_further_than_the_bound(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        waiting, release = held(service)
        for i in range(MAX_PIPELINED * 4):
            connection.send(chunk("s", at=i))
            await connection.writer.drain()
            await asyncio.sleep(0)
        await until(lambda: len(waiting) >= MAX_PIPELINED)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(waiting) < MAX_PIPELINED * 2  # a read may hold a few more than the bound
        release()
        positions = [(await connection.answer())[2]["position"] for _ in range(MAX_PIPELINED * 4)]
        assert positions == list(range(1, MAX_PIPELINED * 4 + 1))


async def test_a_body_in_pieces_is_put_together(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        whole = chunk("s")
        for i in range(0, len(whole), 7):
            connection.send(whole[i : i + 7])
            await connection.writer.drain()
            await asyncio.sleep(0)
        assert (await connection.answer())[2]["position"] == 1


async def test_a_chunked_body_is_taken(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        body = b'{"observations": [[0.5]]}'
        parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
        connection.send(
            b"POST /sessions/s/observations HTTP/1.1\r\nhost: localhost\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + parts
        )
        assert (await connection.answer())[2]["position"] == 1


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_before_all_of_it_has_come(start_hot, declared):
    async with start_hot(body_bytes=2048) as service, connected(service.port) as connection:
        if declared:
            connection.send(
                b"POST /sessions/s/observations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999\r\n\r\n"
            )
        else:
            connection.send(
                b"POST /sessions/s/observations HTTP/1.1\r\nhost: localhost\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
                b"1000\r\n" + b" " * 4096
            )
        status, _, problem = await connection.answer()
        assert (status, problem["limit"]) == (413, 2048)
        # Closed now, the connection would be reset under a client that still writes: it goes on instead.
        connection.send(b" " * 99_999 if declared else b"\r\n1000\r\n" + b" " * 4096 + b"\r\n0\r\n\r\n")
        connection.send(chunk("s", at=0))
        assert (await connection.answer())[2]["position"] == 1


async def test_a_client_that_hangs_up_disturbs_nobody_and_its_chunk_is_applied_once(start_hot):
    async with start_hot() as service, connected(service.port) as neighbour:
        waiting, release = held(service)
        async with connected(service.port) as leaver:
            leaver.send(chunk("left", at=0))
            neighbour.send(chunk("stays", at=0))
            await until(lambda: len(waiting) == 2)
            leaver.writer.transport.abort()
        release()
        assert (await neighbour.answer())[2]["position"] == 1
        async with connected(service.port) as again:
            again.send(chunk("left", at=0))
            status, _, body = await again.answer()
            assert (status, body["position"]) == (200, 1)


async def test_a_client_that_hangs_up_amid_pipelined_requests_is_no_crash(start_hot, capfd):
    get = b"GET /sessions/s HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with start_hot() as service:
        submit = service.engine.submit
        waiting, release = held(service)
        with socket.create_connection(("127.0.0.1", service.port)) as leaver:
            leaver.sendall(3 * get)
            await until(lambda: len(waiting) == 1)
            submit(waiting.pop())
            await until(lambda: len(waiting) == 1)  # the second runs, and the third is the newest
            by_reset = struct.pack("ii", 1, 0)
            leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, by_reset)
        await until(lambda: not service.server.server_state.connections)
        release()
        await until(lambda: not service.server.server_state.tasks)
        assert "ERROR" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sessions", b'{"id": "trailed", "model": "sine"}'),
        ("/sessions/trailed/observations", b'{"observations": [[0.5]]}'),
        ("/observations", b'{"sessions": ["trailed"], "observations": [[0.5]]}'),
        (
            "/v2/models/sine/infer",
            b'{"inputs": [{"name": "observations", "datatype": "FP32", "shape": [1, 1, 1], "data": [0.5]}],'
            b' "parameters": {"sequence_id": "trailed", "sequence_start": true}}',
        ),
    ],
)
async def test_trailers_are_no_headers(start_hot, tmp_path, path, body):
    keys = Keys(tmp_path)
    keys.add("north")
    keys.add("south", role="admin")
    own, other = (f"authorization: Bearer {keys.token[name]}\r\n" for name in ("north", "south"))
    trailers = f"{other}carryover-tenant: south\r\nhost: elsewhere\r\ninference-header-content-length: 1\r\n"

    def request(headers: str) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}transfer-encoding: chunked\r\n\r\n"
        return head.encode() + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + f"{trailers}\r\n".encode()

    async with start_hot(api_keys_file=keys.path) as service, connected(service.port) as connection:
        connection.send(request(""))
        assert (await connection.answer())[0] == 401
        connection.send(request(own) + request(own))
        statuses = [(await connection.answer())[0] for _ in range(2)]
        assert statuses in ([200, 200], [201, 409])
        for name, status in (("north", 200), ("south", 404)):
            found = await service.http.get("/sessions/trailed", headers=keys.headers(name))
            assert found.status_code == status


async def test_connection_close_is_obeyed_and_said(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        connection.send(chunk("s", 0.5, None, "connection: close"))
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await connection.closed()


async def test_shutdown_answers_what_was_accepted_and_then_closes(start_hot):
    async with start_hot() as service, connected(service.port) as busy, connected(service.port) as idle:
        idle.send(chunk("idle"))
        await idle.answer()
        _waiting, release = held(service)
        busy.send(chunk("busy") + chunk("busy"))
        protocols = list(service.server.server_state.connections)
        await until(lambda: any(len(getattr(protocol, "_exchanges", ())) == 2 for protocol in protocols))
        for protocol in protocols:
            protocol.shutdown()
        assert await idle.closed()
        release()
        answers = [await busy.answer() for _ in range(2)]
        assert [(status, headers.get("connection")) for status, headers, _ in answers] == [
            (200, None),
            (200, "close"),
        ]
        assert await busy.closed()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(start_hot):
    async with start_hot(keep_alive_seconds=1) as service, connected(service.port) as connection:
        _waiting, release = held(service)
        connection.send(chunk("s"))
        protocol = next(iter(service.server.server_state.connections))
        await until(lambda: len(protocol._exchanges) == 1)
        protocol._last_heard -= 100
        protocol.timeout_keep_alive_handler()
        assert not protocol.transport.is_closing()
        release()
        assert (await connection.answer())[0] == 200
        protocol._last_heard -= 100
        protocol.timeout_keep_alive_handler()
        assert await connection.closed()


async def test_a_reader_that_does_not_read_stops_being_read(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        connection.send(chunk("s"))
        await connection.answer()
        protocol = next(iter(service.server.server_state.connections))
        protocol.pause_writing()
        assert not protocol.transport.is_reading()
        protocol.resume_writing()
        assert protocol.transport.is_reading()


BODIES = [
    b'{"observations": [[0.5]]}',
    b'{"observations": [0.5, 0.25], "at": 0}',
    b'{"observations": [[0.5]], "horizon": 3}',
    b'{"observations": [[0.5]], "at": 7}',
    b'{"observations": [[0.5]], "model": "pair"}',
    b'{"observations": [[0.5]], "model": "nobody"}',
    b'{"observations": [[NaN]]}',
    b'{"observations": []}',
    b'{"observations": [[1, 2]]}',
    b'{"unknown": 1, "observations": [1]}',
    b"{",
    b"",
]


@pytest.mark.parametrize("body", BODIES)
async def test_a_body_is_answered_as_the_router_answers_it(start_hot, body):
    answers = []
    for hot_route in (True, False):
        async with start_hot(hot_route=hot_route) as service:
            session = f"session-{hot_route}"  # a durable store would know the same one the second time
            response = await service.http.post(f"/sessions/{session}/observations", content=body)
            payload = json.loads(response.text.replace(session, "s")) | {"epoch": "any"}
            answers.append((response.status_code, response.headers["content-type"], payload))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("path", ["/sessions/s/observations?score=false", "/sessions/%73/observations"])
async def test_paths_that_the_hot_route_does_not_recognise_reach_the_router(start_hot, path):
    async with start_hot() as service:
        response = await service.http.post(path, content=b'{"observations": [[0.5]]}')
        assert (response.status_code, response.json()["session"]) == (200, "s")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"sessions": ["a", "b"], "observations": [0.5, 0.25], "at": [0, 0]}'),
        ("application/json", b'{"sessions": ["a", "a"], "observations": [0.5, 1e39]}'),
        ("application/json", b'{"sessions": []}'),
        ("application/octet-stream", b"CYO1"),
        ("text/plain", b"{"),
    ],
)
async def test_a_bulk_request_is_answered_as_the_router_answers_it(start_hot, kind, body):
    answers = []
    for hot_route in (True, False):
        async with start_hot(hot_route=hot_route) as service:
            for name in ("a", "b"):  # a durable store would know them the second time
                await service.http.delete(f"/sessions/{name}")
            response = await service.http.post("/observations", content=body, headers={"content-type": kind})
            payload = response.json()
            payload.pop("epochs", None)
            answers.append((response.status_code, response.headers["content-type"], payload))
    assert answers[0] == answers[1]


INFER = json.dumps(
    {
        "inputs": [{"name": "observations", "datatype": "FP32", "shape": [1, 1, 1], "data": [0.5]}],
        "parameters": {"sequence_id": "s", "sequence_start": True},
    }
).encode()
HOT = {
    "chunk": (chunk("s"), "app.codec.answers.encode_chunk_answer"),
    "bulk": (post("/observations", b'{"sessions": ["s"], "observations": [0.5]}'), "app.codec.bulk.encode"),
    "v2": (post("/v2/models/sine/infer", INFER), "app.open_inference.encode.encode_response"),
}


@pytest.mark.parametrize("place", ["submitting", "encoding"])
@pytest.mark.parametrize("kind", HOT)
async def test_a_crash_is_answered_and_the_connection_goes_on(start_hot, kind, place, monkeypatch):
    """Without an answer the connection would wait for ever, and so would those behind it in the pipeline."""
    sent, encoder = HOT[kind]
    async with start_hot() as service, connected(service.port) as connection:
        with monkeypatch.context() as planted:
            if place == "submitting":
                planted.setattr(service.engine, "submit", lambda _: 1 / 0)
            else:
                planted.setattr(encoder, lambda *_: 1 / 0)
            connection.send(sent + b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            status, headers, crash = await connection.answer()
            assert (status, (await connection.answer())[0]) == (500, 200)
        assert [key[1] for key in service.engine.metrics.requests].count(500) == 1
        assert headers["content-type"] == ("application/json" if kind == "v2" else "application/problem+json")
        assert "see its log" in json.dumps(crash)
        assert "ZeroDivision" not in json.dumps(crash)
        connection.send(sent)
        assert (await connection.answer())[0] == 200


async def test_an_asgi_answer_does_not_overtake_the_chunk_before_it(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        waiting, release = held(service)
        connection.send(chunk("s") + b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await until(lambda: len(waiting) == 1)
        for _ in range(100):  # in which the route, which needs no engine, would answer
            await asyncio.sleep(0)
        release()
        first, second = [await connection.answer() for _ in range(2)]
        assert "predictions" in first[2]
        assert second[2]["status"] == "ok"


OVERRIDDEN = {
    ClosingProtocol: {"__init__", "_start_asgi_task", "on_response_complete", "shutdown"},
    TimedConnection: {
        "__init__", "pause_writing", "resume_writing", "timeout_keep_alive_handler", "on_response_complete",
    },
    HttpConnection: {
        "__init__", "connection_made", "connection_lost", "data_received", "on_message_begin", "on_body",
        "on_message_complete", "pause_writing", "resume_writing", "on_header", "on_headers_complete",
    },
    OrderedAnswers: {"__init__", "on_body", "on_message_complete", "_start_asgi_task", "shutdown"},
    PlainReading: {"__init__", "connection_made", "data_received", "shutdown"},
    HotProtocol: {"__init__", "on_headers_complete"},
}  # fmt: skip


@pytest.mark.parametrize("kind", OVERRIDDEN)
def test_everything_that_is_overridden_is_there_in_uvicorns_protocol(kind):
    """uvicorn calls these by name: one that it renames would be called no more, and nothing would fail."""
    own = {name for name, value in vars(kind).items() if callable(value) and hasattr(HttpToolsProtocol, name)}
    assert own == OVERRIDDEN[kind]
