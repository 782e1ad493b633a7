"""Clients that break the rules of HTTP: too slow, too long, half open, or ten thousand at once."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from contextlib import AsyncExitStack, suppress
from itertools import cycle, islice
from pathlib import Path

import httpx
import pytest

from app.access import connection_limit
from tests.helpers.faults import until
from tests.helpers.raw import connect
from tests.system.test_serve import serving

pytestmark = pytest.mark.anyio

CHUNK = b'{"observations": [[0.1]]}'
HEAD = b"POST /sessions/a/observations HTTP/1.1\r\nhost: localhost\r\n"
CHUNK_BODY = b"content-length: %d\r\n\r\n%b" % (len(CHUNK), CHUNK)
LONG_HEAD = HEAD.replace(b"/sessions/a/observations", b"/sessions")  # the long way, by FastAPI


@pytest.fixture
def store():
    return "memory"


async def connected(service, stack=None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection; with a stack, it is closed with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    if stack is not None:
        stack.callback(writer.close)
    return reader, writer


async def fine(service) -> bool:
    return (await service.http.post("/sessions/fine/observations", content=CHUNK)).status_code == 200


SLOW = {
    "a request line": b"POST /sess",
    "headers": HEAD + b"x: 1",
    "a body": HEAD + b"content-length: 25\r\n\r\n{",
    "chunks of a body": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    "a body, the long way": LONG_HEAD + b"content-length: 25\r\n\r\n{",
    "trailers": HEAD + b"transfer-encoding: chunked\r\n\r\n19\r\n" + CHUNK + b"\r\n0\r\nx: 1",
}


async def test_a_request_that_does_not_come_to_an_end_is_hung_up_on_in_time(start_hot):
    async with start_hot(request_seconds=1) as service:
        answers = await asyncio.gather(*(dripped(service, sent) for sent in SLOW.values()))
        for what, answer in zip(SLOW, answers, strict=True):
            assert answer == b"" or answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")), what
        assert await fine(service)


async def dripped(service, sent: bytes) -> bytes:
    """What was answered before the connection was closed, while a byte came every now and then."""
    reader, writer = await connected(service)
    writer.write(sent)

    async def drip():
        while True:
            await asyncio.sleep(0.1)
            writer.write(b"1")

    dripping = asyncio.create_task(drip())
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        dripping.cancel()
        writer.close()


ENDLESS = {
    "one header": HEAD + b"x: ",
    "many headers": HEAD,
    "a request line": b"GET /",
    "trailers": HEAD + b"transfer-encoding: chunked\r\n\r\n19\r\n" + CHUNK + b"\r\n0\r\n",
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_a_head_without_end_is_hung_up_on_before_it_fills_memory(start_hot, kind):
    more = b"a" * 16_384 if kind in ("one header", "a request line") else b"a: b\r\n" * 3000
    async with start_hot() as service:
        reader, writer = await connected(service)
        writer.write(ENDLESS[kind])
        sent = 0
        try:
            while sent < 100 * len(more):
                writer.write(more)
                await writer.drain()
                sent += len(more)
                if reader.at_eof():
                    break
        except ConnectionError:
            pass
        assert sent < 8_000_000
        await until(lambda: service.engine.metrics.requests["unknown", 431] == 1 or reader.at_eof())
        assert await fine(service)
        writer.close()


async def test_a_client_that_reads_nothing_is_cut_off(start_hot):
    async with start_hot(request_seconds=1, keep_alive_seconds=1) as service:
        line = socket.create_connection(("127.0.0.1", service.port))
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)
        body = json.dumps({"observations": [[0.1]] * 2000}).encode()
        request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        before = len(service.server.server_state.connections)
        for _ in range(400):  # each answer is many times what the client leaves room for
            try:
                line.send(request)
            except BlockingIOError:
                break
            await asyncio.sleep(0)
        await until(lambda: len(service.server.server_state.connections) <= before)
        assert await fine(service)
        line.close()


async def test_one_connection_too_many_is_answered_and_the_others_are_served(start_hot):
    async with start_hot(connections=20) as service, AsyncExitStack() as stack:
        admitted = [await connected(service, stack) for _ in range(19)]
        assert await fine(service)
        answers = await asyncio.gather(*(answered(service, HEAD + CHUNK_BODY, 20) for _ in range(5)))
        for answer in answers:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 "), answer
            assert b"retry-after: 1" in head
            assert json.loads(body)["status"] == 503
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as other:
            assert (await other.post("/sessions/b/observations", content=CHUNK)).status_code == 503
        assert await fine(service)
        for _, writer in admitted:
            writer.close()
        limit = service.app.state.authenticator.connections
        with suppress(TimeoutError):
            await until(lambda: limit.refusing == 0, 20)
        assert limit.refusing == 0


async def test_many_connections_too_many_are_cut_off(start_hot, monkeypatch):
    """An answer takes an open file for a moment: only so many are given at once."""
    monkeypatch.setattr(connection_limit, "MAX_REFUSALS", 3)
    async with start_hot(connections=1) as service, AsyncExitStack() as stack:
        assert await fine(service)
        limit = service.app.state.authenticator.connections
        lines = [await connected(service, stack) for _ in range(10)]
        with suppress(TimeoutError):
            await until(lambda: limit.refused == 10, 20)
        assert limit.refused == 10
        assert limit.refusing <= 3
        answers = await asyncio.gather(*(everything(reader) for reader, _ in lines))
        assert [answer[9:12] for answer in answers if answer] == [b"503"] * 3
        for _, writer in lines:
            writer.close()
        with suppress(TimeoutError):
            await until(lambda: limit.refusing == 0, 20)
        assert (limit.refusing, limit.open, await fine(service)) == (0, 1, True)


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection is closed; nothing if it is cut off."""
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("cut", [0, 1000], ids=["in one read", "in two"])
@pytest.mark.parametrize("path", ["/sessions/a/observations", "/sessions", "/observations", "/none"])
@pytest.mark.parametrize("offer", [b"", b"connection: Upgrade\r\nupgrade: foo\r\n"], ids=["plain", "upgrade"])
async def test_a_head_over_64_kib_is_refused_though_its_body_has_come(start_hot, path, offer, cut):
    def sent(size: int) -> bytes:
        head = HEAD.replace(b"/sessions/a/observations", path.encode()) + offer
        head += b"x: %b\r\n" % (b"a" * (size // 2)) * 2
        return head + b"content-length: %d\r\n\r\n" % len(CHUNK) + CHUNK

    async with start_hot() as service:
        for size, refused in ((65_000, False), (66_000, True)):
            async with connect(service.port) as connection:
                whole = sent(size)
                await connection.send(whole[: len(whole) - cut], whole[len(whole) - cut :])
                assert ((await connection.answer()).status == 431) is refused
        assert service.engine.residents.find("a") is None or path.endswith("a/observations")


INJECTED = [
    b"POST /sessions/a%0d%0ax:%20y/fork HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n",
    b"GET /sessions/a HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\rset-cookie: x=y\r\n\r\n",
    b"GET /sessions/%2e%2e%2f%2e%2e%2fetc%2fpasswd/state HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /sessions/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /models/..%2f..%2f HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"POST /models/..%2f..%2ftmp/reload HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /dashboard/..%2fmain.py HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET //etc/passwd HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET http://evil/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"CONNECT evil:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /sessions/\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /sessions?limit=99999999999999999999999 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    HEAD + b"content-length: 9999999999999999999\r\n\r\n",
    HEAD + b"content-length: -1\r\n\r\n",
    HEAD + b"content-length: 2\r\ncontent-length: 25\r\n\r\n{}",
    HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
    b"POST /sessions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n" * 5000,
    bytes(range(256)) * 20,
]


async def test_bytes_that_are_no_http_request_do_no_harm(start_hot):
    """All at once, because each is given the time in which a request must come to its end."""
    async with start_hot(request_seconds=1) as service:
        answers = await asyncio.gather(*(answered(service, sent) for sent in INJECTED))
        for sent, answer in zip(INJECTED, answers, strict=True):
            head = answer.partition(b"\r\n\r\n")[0].lower()
            assert b"set-cookie" not in head, sent
            assert b"\nx:" not in head, sent
            assert b"root:" not in answer, sent
            assert b" 500 " not in answer.partition(b"\r\n")[0], sent
        assert await fine(service)


async def answered(service, sent: bytes, patience: float = 1.5) -> bytes:
    """All that these bytes are answered, until the connection is closed or nothing more comes in time."""
    reader, writer = await connected(service)
    writer.write(sent)
    answer = b""
    try:
        while part := await asyncio.wait_for(reader.read(65_536), patience):
            answer += part
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return answer


BOMBS = {
    "deep": b'{"observations": ' + b"[" * 1_000_000,
    "one long number": b'{"observations": [' + b"1" * 3_000_000 + b"]}",
    "digits of a position": b'{"observations": [1], "at": ' + b"9" * 3_000_000 + b"}",
    "the same key": b'{"observations": [1]' + b', "at": 1' * 300_000 + b"}",
    "a key of megabytes": b'{"' + b"k" * 3_000_000 + b'": 1}',
    "empty rows": b'{"observations": [' + b"[]," * 1_000_000 + b"[]]}",
    "surrogates": b'{"observations": [1], "model": "' + rb"\ud800" * 400_000 + b'"}',
    "nothing but commas": b"," * 4_000_000,
}


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="how much memory a process has is read from /proc"
)
async def test_bombs_leave_the_server_quick_and_its_memory_bounded(zoo_folder):
    with serving(zoo_folder, CARRYOVER_RESIDENT_SESSIONS="2048") as (process, port):
        first = resident_bytes(process.pid)
        for _ in range(2):
            for body in BOMBS.values():
                for path in (
                    "/sessions/a/observations",
                    "/observations",
                    "/sessions",
                    "/v2/models/sine/infer",
                ):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
                    writer.write(head.encode() + body)
                    status = (await asyncio.wait_for(reader.readline(), 60)).split()[1]
                    assert status in (b"400", b"413", b"422"), (path, body[:30], status)
                    writer.close()
        grown = resident_bytes(process.pid) - first
        print(f"resident: {first / 2**20:.0f} MiB, and {grown / 2**20:.0f} MiB more after the bombs")
        assert grown < 300 * 2**20


HANDSHAKE = (
    b"GET /stream HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
IDLE = {  # what each sends in turn, and bytes that the server may hold for each; a socket reads into 16 KiB
    "connections": ((b"", b"POST /sess"), 20_000),
    "sockets": ((HANDSHAKE,), 40_000),
}


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="how much memory a process has is read from /proc"
)
@pytest.mark.parametrize("kind", IDLE)
async def test_ten_thousand_that_idle_are_a_bounded_cost(zoo_folder, kind):
    sends, most = IDLE[kind]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)  # ours and, in a process of its own, the server's
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines: list[socket.socket] = []
    try:
        with serving(zoo_folder, CARRYOVER_RESIDENT_SESSIONS="2048") as (process, port):
            first = resident_bytes(process.pid)
            for sent in islice(cycle(sends), count):
                lines.append(socket.create_connection(("127.0.0.1", port), timeout=10))
                lines[-1].sendall(sent)
            if kind == "sockets":
                assert all(line.recv(12) == b"HTTP/1.1 101" for line in lines)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"content-length: 25\r\n\r\n" + CHUNK)
            assert b"200" in await asyncio.wait_for(reader.readline(), 30)
            each = (resident_bytes(process.pid) - first) / count
            print(f"{count} idle {kind}: {each:.0f} bytes each")
            assert each < most
            writer.close()
    finally:
        for line in lines:
            line.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
