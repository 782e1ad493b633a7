"""What ordinary clients send, and stray bytes: each must get the answer that its specification names."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

from benchmarks.attack.http import CLOSE, TEXT, WebSocket, connect, frame, request, websocket
from benchmarks.attack.result import Checks, Result, Run, observed
from benchmarks.attack.server import Server, serving

CHUNK = b'{"observations":[0.5]}'
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
H2C = ("host: localhost", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")
GETS = ("/health/ready", "/sessions", "/sessions/c", "/models", "/metrics", "/openapi.json", "/")
NOT_HTTP = (
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"NONSENSE\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n\r\n",
)
RSV1 = 0x40


async def clients(run: Run) -> AsyncIterator[Result]:
    """One server for all of them."""
    async with serving(run.target, run.new_folder()) as server:
        for attack, sent, check in CHECKS:
            checks = Checks()
            async with observed(run, server) as view, connect(server.port) as connection:
                await connection.request("POST", "/sessions/c/observations", CHUNK)
                await check(server, checks)
            yield view.result(attack, sent, str(checks), worked=checks.worked, bounded=False)


async def _offer_of_http_2(server: Server, checks: Checks) -> None:
    """The body belongs to the request: a wrong `at` is refused, and a chunk is applied."""
    async with connect(server.port) as connection:
        for path, body, expected in (
            ("/sessions/c/reset", b'{"at":99}', 409),
            ("/sessions/c/observations", CHUNK, 200),
            ("/sessions", b'{"id":"offered"}', 201),
        ):
            await connection.send(request("POST", path, body, headers=H2C))
            status, _ = await connection.answer()
            checks.expect(status == expected, f"POST {path}: {status}")


async def _heads(server: Server, checks: Checks) -> None:
    for path in GETS:
        answers = []
        for method in ("GET", "HEAD"):
            async with connect(server.port) as connection:
                await connection.send(request(method, path, headers=("host: localhost", "connection: close")))
                head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
                answers.append((head.split(b" ", 2)[1:2], body))
        (status, _), (head_status, head_body) = answers
        checks.expect(
            status == head_status and not head_body, f"HEAD {path}: {b''.join(head_status).decode()}"
        )


async def _encoded_bodies(server: Server, checks: Checks) -> None:
    async with connect(server.port) as connection:
        for path, body in (("/sessions/c/observations", CHUNK), ("/sessions/c/reset", b"{}")):
            for name, content, headers in (
                ("gzip", gzip.compress(body), ("host: localhost", "content-encoding: gzip")),
                ("byte order mark", BYTE_ORDER_MARK + body, ("host: localhost",)),
            ):
                await connection.send(request("POST", path, content, headers=headers))
                status, _ = await connection.answer()
                checks.expect(status == 200, f"{name}, POST {path}: {status}")


async def _closes(server: Server, checks: Checks) -> None:
    for path in ("/sessions/c/stream", "/stream"):
        async with websocket(server.port, path) as socket:
            await socket.send_frames([frame(CLOSE, b"")])
            code = await _close_code(socket)
            checks.expect(code in (None, 1000), f"{path}: closed with {code}")


async def _invalid_frames(server: Server, checks: Checks) -> None:
    for name, data, expected in (
        ("a reserved bit", bytes([frame(TEXT, CHUNK)[0] | RSV1]) + frame(TEXT, CHUNK)[1:], 1002),
        ("text that is not UTF-8", frame(TEXT, b'{"observations":[0.5],"tag":"\xff"}'), 1007),
        ("a continuation of nothing", frame(0, CHUNK), 1002),
    ):
        async with websocket(server.port, "/sessions/c/stream") as socket:
            await socket.send_frames([data])
            code = await _close_code(socket)
            checks.expect(code == expected, f"{name}: {'answered' if code == -1 else f'closed with {code}'}")


async def _stray_bytes(server: Server, checks: Checks) -> None:
    for data in NOT_HTTP:
        async with connect(server.port) as connection:
            await connection.send(data)
            answer = await connection.rest()
            head = answer.partition(b"\r\n\r\n")[0].lower()
            problem = head.startswith(b"http/1.1 400 ") and b"application/problem+json" in head
            checks.expect(problem, f"{data[:12]!r}: {head[:30]!r}")


async def _close_code(socket: WebSocket) -> int | None:
    """The code of the close that comes; None: without a code; -1: something else came."""
    try:
        opcode, payload = await socket.receive(10.0)
    except (OSError, asyncio.IncompleteReadError):
        return 1006  # what a client reports where no close came
    if opcode != CLOSE:
        return -1
    return int.from_bytes(payload[:2], "big") if payload else None


Check = Callable[[Server, Checks], Awaitable[None]]
CHECKS: tuple[tuple[str, str, Check], ...] = (
    ("offer of HTTP/2 (Java's HttpClient)", "POSTs with Upgrade: h2c", _offer_of_http_2),
    ("HEAD", "HEAD on GET routes", _heads),
    ("encoded bodies", "gzip, and a byte order mark", _encoded_bodies),
    ("WebSocket closed without a code (JavaScript)", "an empty close frame", _closes),
    ("invalid WebSocket frames", "a reserved bit, bytes that are not UTF-8", _invalid_frames),
    ("bytes that are not HTTP", "TLS, HTTP/9.9, nonsense", _stray_bytes),
)
