"""One service driven byte by byte over several connections, so that two services can be compared."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from app.protocols.http import HotProtocol
from app.protocols.inbox import PlainReplies
from app.protocols.plain_reading import Plain
from tests.helpers.faults import until
from tests.helpers.ways import Way

CLIENT_REQUEST_ID = "r-1"
COMPARED_HEADERS = {"allow", "connection", "content-type", "retry-after", "x-request-id"}
"""The router adds others, and a hot request goes there while another request does."""


class CountingTransport:
    """A transport that counts what is written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Client(asyncio.Protocol):
    """A client's end, and what is known of the server's end."""

    def __init__(self) -> None:
        self.received = b""
        self.sent = 0
        self.closed = False
        self.transport: Any = None
        self.server: Any = None  # the protocol
        self.heard = 0  # bytes that the protocol was given
        self.lost = False  # whether the protocol knows that the connection is closed

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    @property
    def is_heard(self) -> bool:
        """Whether all that was sent has come in, or the connection is closed."""
        return self.lost or self.closed or self.heard == self.sent

    @property
    def is_quiet(self) -> bool:
        """Whether all that was sent has come in, and all that is owed has been received."""
        if self.lost:
            return self.closed
        server = self.server
        owed = [exchange for exchange in server._exchanges if exchange is not server._exchange]
        return (
            self.heard == self.sent
            and not (owed or server.pipeline or server._held)
            and server._plain not in (Plain.IN_INBOX, Plain.AWAITED)
            and (server._incoming is not None or not server._asgi_runs())  # its body is still coming in
            and not server.reader.is_waiting
            and len(self.received) == server.transport.written
            and server._lingering is None
            and not server.transport.is_closing()
        )


@dataclass
class Answer:
    """One answer on a connection."""

    status: int
    headers: dict[str, str]
    body: Any


def answers(data: bytes) -> list[Answer]:
    """The answers in what a client has received, which must be whole."""
    found = []
    while data:
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank, f"half an answer: {head!r}"
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        size = int(headers.get("content-length", 0))  # 100 Continue has none
        assert len(data) >= size, f"half a body: {data!r}"
        body, data = data[:size], data[size:]
        found.append(Answer(int(lines[0].split()[1]), headers, json.loads(body) if body else None))
    return found


@dataclass
class Observer:
    """Sees every connection of a service, and counts what the inbox has taken."""

    clients: dict[int, Client] = field(default_factory=dict)  # by port
    plain: int = 0  # requests that were submitted together with others of the inbox

    def install(self, patch: pytest.MonkeyPatch) -> None:
        observer = self
        made, received, lost = (
            HotProtocol.connection_made,
            HotProtocol.data_received,
            HotProtocol.connection_lost,
        )
        replies = PlainReplies.__init__

        def connection_made(self: Any, transport: Any) -> None:
            made(self, CountingTransport(transport))
            port = transport.get_extra_info("peername")[1]
            observer.clients.setdefault(port, Client()).server = self

        def data_received(self: Any, data: bytes) -> None:
            client = observer._client(self)
            received(self, data)
            client.heard += len(data)

        def connection_lost(self: Any, error: Exception | None) -> None:
            observer._client(self).lost = True
            lost(self, error)

        def init(self: Any, requests: Any, *arguments: Any) -> None:
            replies(self, requests, *arguments)
            observer.plain += len(requests)

        patch.setattr(HotProtocol, "connection_made", connection_made, raising=False)
        patch.setattr(HotProtocol, "data_received", data_received)
        patch.setattr(HotProtocol, "connection_lost", connection_lost, raising=False)
        patch.setattr(PlainReplies, "__init__", init)

    def _client(self, protocol: Any) -> Client:
        return next(client for client in self.clients.values() if client.server is protocol)


class Service:
    """A running service with its clients."""

    def __init__(self, way: Way, observer: Observer) -> None:
        self.way = way
        self.observer = observer
        self.engine = way.engine
        self._epochs: defaultdict[str, list[str]] = defaultdict(list)  # by tenant and session, in their order

    async def connect(self) -> Client:
        client, connection = Client(), socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.bind(("127.0.0.1", 0))
        self.observer.clients[connection.getsockname()[1]] = client
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", self.way.port))
        await loop.create_connection(lambda: client, sock=connection)
        await until(lambda: client.server is not None)
        return client

    async def send(self, client: Client, data: bytes) -> None:
        """Send a piece; returns once the server has got it."""
        if client.closed:
            return
        client.sent += len(data)
        client.transport.write(data)
        await until(lambda: client.is_heard)

    async def quiet(self, clients: list[Client]) -> None:
        """Wait until nothing is owed to these clients any more."""
        await until(lambda: all(client.is_quiet for client in clients) and not self.engine._has_work())

    async def hang_up(self, client: Client) -> None:
        client.transport.abort()
        await until(lambda: client.lost and client.closed)

    def epoch(self, session: str) -> str | None:
        """The newest epoch of a session, as this service has drawn it."""
        return self._epochs[session][-1] if self._epochs[session] else None

    def comparable(self, tenant: str, answer: Answer) -> tuple[Any, ...]:
        """An answer without what differs between services: dates, and random epochs."""
        body = answer.body
        if isinstance(body, dict) and "epoch" in body:
            drawn = self._epochs[f"{tenant}/{body.get('session', '')}"]
            if body["epoch"] not in drawn:
                drawn.append(body["epoch"])
            body = body | {"epoch": drawn.index(body["epoch"])}
        headers = {name: value for name, value in answer.headers.items() if name in COMPARED_HEADERS}
        if headers.get("x-request-id") != CLIENT_REQUEST_ID:
            headers.pop("x-request-id", None)  # drawn by the router
        keys = list(body) if isinstance(body, dict) else None
        return answer.status, headers, keys, body

    def sessions(self) -> dict[str, tuple[Any, ...]]:
        """Every session: its model, position, what it remembers, and its carry."""
        found = {}
        for slab in self.engine.residents.models.slabs.values():
            for name, row in slab.index.items():
                header = slab.headers[row]
                columns = ("position", "since_reset", "chunk_lengths", "digest", "long_answer_count")
                exact = tuple(np.array(header[column]).tolist() for column in columns)
                numbers = {"answer": header["answer"].tolist(), "carry": slab.carries[row].tolist()}
                found[name] = (slab.forecaster.artifact.name, exact, numbers)
        return found


def assert_alike(first: Any, second: Any, where: str) -> None:
    """Compare; the last digits of floats may differ: a batch adds in another order than a chunk alone."""
    if isinstance(first, float) and isinstance(second, float):
        assert second == pytest.approx(first, rel=2e-5, abs=2e-5), where
    elif isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_alike(first[key], second[key], f"{where}: {key}")
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_alike(*pair, f"{where}: {i}")
    else:
        assert first == second, where
