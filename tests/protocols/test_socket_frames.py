"""Frames that no client library would send: fragments without end, reserved bits, text that is no text."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import process_time
from typing import Any

import pytest

from app.protocols import fragments
from tests.helpers.faults import held, until
from tests.helpers.raw import RawConnection, connect, frame, handshake, read_frame

pytestmark = pytest.mark.anyio

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CHUNK = b'{"observations":[0.5]}'


@pytest.fixture
def store() -> str:
    return "memory"


@asynccontextmanager
async def opened(service: Any, path: str = "/sessions/s/stream") -> AsyncIterator[RawConnection]:
    """A socket whose first message was read."""
    async with connect(service.port) as connection:
        await connection.send(handshake(path))
        assert (await connection.answer()).status == 101
        await read_frame(connection)
        yield connection


async def closed_with(connection: RawConnection) -> int | None:
    """The code of the server's close frame, None for a close without one, behind answers that are skipped."""
    while True:
        kind, payload = await read_frame(connection)
        if kind == CLOSE:
            return struct.unpack("!H", payload[:2])[0] if payload else None


async def seconds_to_take(service: Any, count: int, payload: bytes) -> float:
    """Of this process, which a busy machine does not change much."""
    async with opened(service) as connection:
        start = process_time()
        more = frame(CONTINUATION, payload, fin=False)
        await connection.send(frame(TEXT, b"{", fin=False))
        for _ in range(0, count, 1000):
            connection.writer.write(more * 1000)
            await connection.writer.drain()
        await connection.send(frame(PING, b"done"))
        assert (await read_frame(connection)) == (PONG, b"done")
        return process_time() - start


@pytest.mark.parametrize("payload", [b"", b" "], ids=["empty", "a byte"])
async def test_a_fragment_costs_the_same_however_many_came_before(start_hot, payload):
    async with start_hot() as service:
        few, many = [await seconds_to_take(service, count, payload) for count in (2000, 16_000)]
        assert many < 8 * few * 3 + 0.2  # eight times as many; the square would be 64 times


async def test_a_message_has_a_bounded_number_of_fragments(start_hot, monkeypatch):
    monkeypatch.setattr(fragments, "MAX_FRAGMENTS", 5)
    async with start_hot() as service, opened(service) as connection:
        parts = [frame(TEXT, b"", fin=False)] + [frame(CONTINUATION, b"", fin=False)] * 3
        await connection.send(b"".join(parts) + frame(CONTINUATION, CHUNK))
        assert json.loads((await read_frame(connection))[1])["position"] == 1
        await connection.send(b"".join(parts) + frame(CONTINUATION, b"", fin=False) * 2 + frame(PING))
        kind, payload = await read_frame(connection)  # a server that waits for more answers the ping
        assert (kind, payload[:2]) == (CLOSE, struct.pack("!H", 1009))


@pytest.mark.parametrize("path", ["/sessions/s/stream", "/stream", "/sessions/s/watch"])
@pytest.mark.parametrize("reserved", [4, 2, 1], ids=["RSV1", "RSV2", "RSV3"])
async def test_a_reserved_bit_without_an_extension_closes_the_socket(start_hot, path, reserved):
    async with start_hot() as service, opened(service, path) as connection:
        await connection.send(frame(TEXT, CHUNK, reserved=reserved))
        assert await closed_with(connection) == 1002
        assert (await service.http.get("/sessions/s")).status_code == 404


@pytest.mark.parametrize("path", ["/sessions/s/stream", "/stream"])
@pytest.mark.parametrize(
    "frames",
    [
        [frame(CONTINUATION, CHUNK)],
        [frame(CONTINUATION, CHUNK, fin=False)],
        [frame(TEXT, CHUNK[:5], fin=False), frame(TEXT, CHUNK)],
        [frame(TEXT, CHUNK[:5], fin=False), frame(BINARY, CHUNK)],
    ],
    ids=["the end of nothing", "the middle of nothing", "a text within a text", "binary within a text"],
)
async def test_a_fragment_out_of_place_closes_the_socket_and_moves_nothing(start_hot, path, frames):
    async with start_hot() as service, opened(service, path) as connection:
        # A server that takes the fragment answers the ping, and does not let the test wait for a close.
        await connection.send(b"".join(frames) + frame(PING))
        kind, payload = await read_frame(connection)
        assert (kind, payload[:2]) == (CLOSE, struct.pack("!H", 1002))
        assert (await service.http.get("/sessions/s")).status_code == 404


@pytest.mark.parametrize("text", [b'{"observations":[0.5],"tag":"\xff"}', b"\xc3", b"\xed\xa0\x80"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in fragments"])
async def test_text_that_is_not_utf_8_closes_the_socket_and_moves_nothing(start_hot, text, cut):
    async with start_hot() as service, opened(service) as connection:
        if cut:
            await connection.send(frame(TEXT, text[:1], fin=False), frame(CONTINUATION, text[1:]))
        else:
            await connection.send(frame(TEXT, text))
        assert await closed_with(connection) == 1007
        assert (await service.http.get("/sessions/s")).status_code == 404


async def test_text_of_many_bytes_a_character_is_taken_cut_or_not(start_hot):
    text = '{"observations":[0.5],"tag":"Pumpe €𝄞"}'.encode()
    async with start_hot() as service, opened(service) as connection:
        await connection.send(frame(TEXT, text), frame(TEXT, text[:-4], fin=False), frame(0, text[-4:]))
        for position in (1, 2):
            message = json.loads((await read_frame(connection))[1])
            assert (message["position"], message["tag"]) == (position, "Pumpe €𝄞")


@pytest.mark.parametrize("path", ["/sessions/s/stream", "/sessions/s/watch"])
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", 1000),
        (struct.pack("!H", 1000), 1000),
        (struct.pack("!H", 1001) + b"bye", 1001),
        (struct.pack("!H", 4007), 4007),
        (struct.pack("!H", 1005), 1002),
        (struct.pack("!H", 1006), 1002),
        (struct.pack("!H", 0), 1002),
    ],
)
async def test_a_close_is_answered_with_a_code_that_may_be_sent(start_hot, path, sent, answered):
    async with start_hot() as service, opened(service, path) as connection:
        await connection.send(frame(CLOSE, sent))
        assert await closed_with(connection) == answered


async def test_a_chunk_directly_before_a_close_gets_its_answer_before_the_close(start_hot):
    async with start_hot() as service, opened(service) as connection:
        async with held(service.engine) as released:
            await connection.send(frame(TEXT, CHUNK) + frame(TEXT, CHUNK) + frame(CLOSE) + frame(TEXT, CHUNK))
            await until(lambda: any(getattr(one, "closing", False) for one in open_sockets(service)))
            released.set()
        positions = [json.loads((await read_frame(connection))[1])["position"] for _ in range(2)]
        assert positions == [1, 2]
        assert await closed_with(connection) == 1000
        assert (await service.session("s"))["position"] == 2


async def test_a_watcher_that_sends_pings_and_reads_nothing_is_read_no_further(start_hot):
    async with start_hot() as service, opened(service, "/sessions/s/watch"):
        (watcher,) = [one for one in open_sockets(service) if hasattr(one, "_events")]
        transport = watcher._transport.underlying_transport
        watcher.pause_writing()
        assert not transport.is_reading()
        watcher.resume_writing()
        assert transport.is_reading()


def open_sockets(service: Any) -> list[Any]:
    return list(service.server.server_state.connections)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_javascripts_close_without_a_code_is_clean(start_hot):
    script = """
        const { version } = process;
        if (typeof WebSocket === 'undefined') { console.log('no WebSocket in ' + version); process.exit(0); }
        const socket = new WebSocket(process.argv[1]);
        socket.onmessage = () => socket.close();
        socket.onclose = (event) => { console.log(event.code, event.wasClean); process.exit(0); };
    """
    async with start_hot() as service:
        url = f"ws://127.0.0.1:{service.port}/sessions/s/stream"
        command = ["node", "--experimental-websocket", "-e", script, url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
        if "no WebSocket" in done.stdout:
            pytest.skip(done.stdout.strip())
        assert done.stdout.strip() in ("1000 true", "1005 true"), done.stderr
