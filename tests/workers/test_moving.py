"""Connections go to the worker that owns their session, and nothing of what came in on them is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from app import server
from app.protocols.plain_reading import PlainReading
from app.workers.moving import ConnectionMover
from tests.helpers.faults import held, inbox_held, queued, until
from tests.helpers.two_workers import TwoWorkers, owned, two_workers
from tests.helpers.ways import HotRoute

pytestmark = pytest.mark.anyio

HERE, THERE = owned(0, 4), owned(1, 4)

Start = Callable[..., AbstractAsyncContextManager[TwoWorkers]]


@pytest.fixture
def start(tmp_path, zoo_folder, monkeypatch) -> Start:
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)

    def start(**changes: Any) -> AbstractAsyncContextManager[TwoWorkers]:
        return two_workers(HotRoute, tmp_path, zoo_folder, **changes)

    return start


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: str) -> None:
        self.reader, self.writer = reader, writer
        self.headers = headers

    @classmethod
    async def open(cls, port: int, headers: str = "", **options: Any) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, **options), headers)

    def send(self, session: str, at: int, cut: int | None = None) -> bytes:
        """Send a request, or its first bytes. Returns the rest."""
        body = json.dumps({"observations": [0.5], "at": at})
        head = f"POST /sessions/{session}/observations HTTP/1.1\r\nhost: localhost\r\n{self.headers}"
        request = f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
        self.writer.write(request[:cut])
        return b"" if cut is None else request[cut:]

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), json.loads(await self.reader.readexactly(size))

    async def ask(self, session: str, at: int) -> tuple[int, int]:
        """Send a request. Returns its status and the position of the session."""
        self.send(session, at)
        status, body = await self.answer()
        return status, body["position"]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


def connections(both: TwoWorkers, i: int) -> list[Any]:
    """The HTTP connections of a worker."""
    return [found for found in both.servers[i].server_state.connections if isinstance(found, PlainReading)]


async def test_a_connection_moves_to_the_owner_of_its_session(start):
    async with start() as both:
        client = await Client.open(both.ways[0].port)
        for at in range(12):
            assert await client.ask(THERE[0], at) == (200, at + 1)
        assert (len(connections(both, 0)), len(connections(both, 1))) == (0, 1)
        limits = [both.ways[i].app.state.authenticator.connections.open for i in (0, 1)]
        assert limits == [0, 1]
        client.writer.close()
        await until(lambda: not connections(both, 1))


async def test_a_connection_of_the_owner_stays(start):
    async with start() as both:
        client = await Client.open(both.ways[0].port)
        for at in range(6):
            assert await client.ask(HERE[0], at) == (200, at + 1)
        assert (len(connections(both, 0)), len(connections(both, 1))) == (1, 0)
        client.writer.close()


async def test_a_connection_of_many_sessions_moves_ever_more_rarely(start, monkeypatch):
    sent: list[int] = []
    send = ConnectionMover.send

    def count(self: ConnectionMover, owner: int, *arguments: Any) -> bool:
        sent.append(owner)
        return send(self, owner, *arguments)

    monkeypatch.setattr(ConnectionMover, "send", count)
    async with start() as both:
        client = await Client.open(both.ways[0].port)
        for at in range(40):
            for name in (HERE[0], THERE[0], HERE[1], THERE[1]):
                assert await client.ask(name, at) == (200, at + 1)
        client.writer.close()
    assert 1 <= len(sent) <= 8  # of 160 requests


async def test_what_comes_in_while_a_connection_moves_is_read_by_its_owner(start):
    async with start() as both:
        client = await Client.open(both.ways[0].port)
        for at in (0, 1):
            await client.ask(THERE[0], at)
        async with held(both.engines[1]) as release:
            client.send(THERE[0], 2)  # moves
            await until(lambda: len(connections(both, 1)) == 1)
            for at in (3, 4, 5):  # ahead of its answer
                client.send(THERE[0], at)
            rest = client.send(THERE[0], 6, cut=40)
            release.set()
        for at in range(2, 6):
            status, body = await client.answer()
            assert (status, body["position"]) == (200, at + 1)
        client.writer.write(rest)
        assert (await client.answer())[1]["position"] == 7
        client.writer.close()


async def test_half_a_request_does_not_keep_a_connection_from_moving_or_get_lost(start):
    async with start() as both:
        client = await Client.open(both.ways[0].port)
        for at in (0, 1):
            await client.ask(THERE[0], at)
        rest = client.send(THERE[0], 2, cut=90)
        await until(lambda: len(connections(both, 1)) == 1)
        client.writer.write(rest)
        assert (await client.answer())[1]["position"] == 3
        for at in range(3, 9):
            assert await client.ask(THERE[0], at) == (200, at + 1)
        client.writer.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
async def test_a_connection_over_tls_stays_and_is_answered(start, tmp_path):
    chain, key = certificate(tmp_path)
    async with start(tls_certificate=chain, tls_key=key) as both:
        context = ssl.create_default_context(cafile=str(chain))
        context.check_hostname = False
        client = await Client.open(both.ways[0].port, ssl=context)
        for at in range(6):
            assert await client.ask(THERE[0], at) == (200, at + 1)
        assert (len(connections(both, 0)), len(connections(both, 1))) == (1, 0)
        client.writer.close()


async def test_a_connection_stays_where_its_owner_takes_none(start):
    async with start() as both:
        both.servers[1].mover.stop()
        client = await Client.open(both.ways[0].port)
        for at in range(8):
            assert await client.ask(THERE[0], at) == (200, at + 1)
        assert len(connections(both, 0)) == 1
        both.servers[1].mover = None
        client.writer.close()


async def test_a_connection_that_moved_to_a_full_worker_is_refused_with_an_answer(start):
    async with start() as both:
        limit = both.ways[1].app.state.authenticator.connections
        client = await Client.open(both.ways[0].port)
        for at in (0, 1):
            await client.ask(THERE[0], at)
        limit.limit = 0
        client.send(THERE[0], 2)
        status, _ = await client.answer()
        assert status == 503
        limit.limit = 10
        again = await Client.open(both.ways[1].port)
        assert await again.ask(THERE[0], 2) == (200, 3)  # the request that was refused was not applied
        again.writer.close()
        client.writer.close()


async def test_a_worker_that_stops_answers_the_connections_that_are_on_their_way(start, monkeypatch):
    async with start(stop_seconds=2.0) as both:  # the other worker goes on, and is waited for
        client = await Client.open(both.ways[0].port)
        for at in (0, 1):
            await client.ask(THERE[0], at)
        mover = both.servers[1].mover
        asyncio.get_running_loop().remove_reader(mover._socket)  # it is busy
        client.send(THERE[0], 2)
        await until(lambda: not connections(both, 0))
        stopping = asyncio.ensure_future(both.servers[1].shutdown())
        assert (await client.answer())[1]["position"] == 3
        async with asyncio.timeout(10):  # it is closed like every other connection, and at once
            assert await client.reader.read() == b""
        client.writer.close()
        await stopping
        both.servers[1].mover = None


async def test_a_request_that_waits_for_the_other_worker_is_answered_before_the_next(start):
    """Answers keep the order of their requests, though one of them comes from another worker."""
    async with start() as both:
        client = await Client.open(both.ways[0].port)
        for at in (0, 1):
            await client.ask(HERE[0], at)
        async with held(both.engines[1]) as release:
            client.send(THERE[0], 0)
            await queued(both.engines[1], [THERE[0]])
            client.send(HERE[0], 2)
            await until(lambda: both.engines[0].residents.find(HERE[0]) is not None)
            release.set()
        assert (await client.answer())[1]["session"] == THERE[0]
        assert (await client.answer())[1]["session"] == HERE[0]
        client.writer.close()


async def test_requests_that_are_submitted_together_are_answered_though_one_is_handed_over(start):
    """The one of this worker is answered at once, and its connection does not wait for the other one."""
    async with start() as both:
        clients = {name: await Client.open(both.ways[0].port) for name in (HERE[0], THERE[0])}
        for name, client in clients.items():
            assert await client.ask(name, 0) == (200, 1)
        with inbox_held(both.engines[0]):
            for name, client in clients.items():
                client.send(name, 1)
            inbox = connections(both, 0)[0].inbox
            await until(lambda: len(inbox) == 2)
        async with asyncio.timeout(10):
            for client in clients.values():
                assert (await client.answer())[1]["position"] == 2
            assert both.engines[0].metrics.handed_over == 2
            for name, client in clients.items():
                assert await client.ask(name, 2) == (200, 3)
                client.writer.close()
