"""The hot route: chunks answered inside uvicorn's HTTP protocol, ahead of ASGI, router and middleware.

For a chunk of one observation everything that a web framework does costs several times what the model
does. `HotProtocol` is uvicorn's own httptools protocol; it looks at each request line, takes the routes
that carry data for itself, and leaves every other request, and any that it is not sure of, to the parent,
whose answer is the same. A request here is no task and no coroutine: its body becomes a job, and the
engine's reply writes the answer to the transport.

What HTTP asks of such a class:

- Answers leave in the order of their requests. Hot requests of one connection wait in `_turns`; one that
  arrives while an ASGI request runs is left to the parent, which has a queue of its own; an ASGI request
  that arrives while hot ones wait is held until they have left.
- Nobody is buffered without bound: reading pauses while `PIPELINED` answers wait, or while the client
  does not read what was written; a body over the limit is refused as soon as it is.
- A client that hangs up changes nothing for the others: its job runs, its answer has nowhere to go.
- On shutdown what was accepted is answered, with `connection: close`.

One setting, `hot_route`, turns it off.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app import bulk, wire
from app.api.body import too_large
from app.api.problems import MEDIA_TYPE, problem
from app.engine import Engine
from app.errors import CarryoverError
from app.jobs import Advance

BULK = b"/observations"
OBSERVATIONS = re.compile(rb"/sessions/([A-Za-z0-9._:\-]{1,128})/observations")
PIPELINED = 32
"""Requests of one connection that may wait for an answer before it is read no further."""

Route = Callable[["HotProtocol"], "Turn | None"]
"""Makes the turn of a request whose headers have come; None leaves it to the parent."""

JSON = b"application/json"
PROBLEM = MEDIA_TYPE.encode()


class HotProtocol(HttpToolsProtocol):
    """One connection. `bound` gives the class its engine and limits."""

    engine: ClassVar[Engine]
    limits: ClassVar[bulk.BulkLimits]
    most_bytes: ClassVar[int]
    others: ClassVar[Mapping[bytes, Route]] = {}
    """By what the address begins with: hot routes of other modules."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._turns: deque[Turn] = deque()  # hot requests not answered yet, in order
        self._turn: Turn | None = None  # the one whose body is coming in
        self._held: tuple[RequestResponseCycle, Any] | None = None  # an ASGI request behind them
        self._last_heard = 0.0
        self._stamped: object = None
        self._stamp = b""

    @classmethod
    def bound(
        cls,
        engine: Engine,
        limits: bulk.BulkLimits,
        most_bytes: int,
        others: Mapping[bytes, Route] | None = None,
    ) -> type[HotProtocol]:
        """The class for a server of this engine."""
        own = {"engine": engine, "limits": limits, "most_bytes": most_bytes, "others": others or {}}
        return type("BoundHotProtocol", (cls,), own)

    # Coming in: uvicorn and the parser call these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last_heard = self.loop.time()
        self._watch_idleness(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._turns.clear()
        self._turn = None
        self._held = None
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        # The parent's, less a timer cancelled and armed again for every request: see _watch_idleness.
        self._last_heard = self.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._unset_keepalive_if_required()
                self.handle_websocket_upgrade()
            else:
                self._unsupported_upgrade_warning()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._turn = turn = self._hot_turn()
        if turn is None:
            self._leave_to_parent()
            return
        self._turns.append(turn)
        turn.keep_alive = self.parser.should_keep_alive()
        if len(self._turns) >= PIPELINED:
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        turn = self._turn
        if turn is None:
            super().on_body(body)
        elif not turn.response:
            turn.body = turn.body + body if turn.body else body
            if len(turn.body) > self.most_bytes:
                self._refuse_body(turn)

    def on_message_complete(self) -> None:
        turn = self._turn
        if turn is None:
            super().on_message_complete()
            return
        self._turn = None
        if turn.response:
            return
        body, turn.body = turn.body, b""
        try:
            turn.ask(body)
        except CarryoverError as error:
            turn.reply(error)

    def _hot_turn(self) -> Turn | None:
        """What answers this request, when nothing about it needs the parent."""
        match = OBSERVATIONS.fullmatch(self.url)
        if (
            (match is None and self.url != BULK and not self.url.startswith(tuple(self.others)))
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self.expect_100_continue
            or self.parser.should_upgrade()
            or self.access_log
            or self.limit_concurrency is not None
            or self._asgi_runs()
        ):
            return None
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.most_bytes:
                return None
        if match is not None:
            return _ChunkTurn(self, match[1].decode("ascii"))
        if self.url == BULK:
            return _BulkTurn(self, self.header(b"content-type"), self.header(b"accept"))
        return next(make(self) for start, make in self.others.items() if self.url.startswith(start))

    def header(self, wanted: bytes) -> str:
        """A header of the request that is coming in; empty where it has none."""
        return next((value.decode("latin-1") for name, value in self.headers if name == wanted), "")

    def _asgi_runs(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first; the parent's type denies it
        return cycle is not None and not cycle.response_complete

    def _leave_to_parent(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._turns:
            self._held = (cycle, app)
            self.flow.pause_reading()
        else:
            super()._start_asgi_task(cycle, app)

    def _refuse_body(self, turn: Turn) -> None:
        """Answer at once; the rest of the body is thrown away as it comes in.

        Closing would reset the connection under a client that still writes, which then never reads why.
        """
        turn.body = b""
        turn.reply(too_large(self.most_bytes))

    # Going out.

    def leave(self) -> None:
        """Write the answers whose turn it is."""
        turns = self._turns
        while turns and turns[0].response:
            turn = turns.popleft()
            self.server_state.total_requests += 1
            self.transport.write(turn.response)
            if not turn.keep_alive:
                turns.clear()
                self.transport.close()
                return
        if not turns and self._held is not None:
            cycle, app = self._held
            self._held = None
            super()._start_asgi_task(cycle, app)
        self._read_on()

    def stamp(self) -> bytes:
        """The headers that uvicorn gives every answer; it replaces the list once a second."""
        if self._stamped is not self.server_state.default_headers:
            self._stamped = self.server_state.default_headers
            self._stamp = b"".join(
                name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers
            )
        return self._stamp

    def shutdown(self) -> None:
        if not self._turns or self._turns[0] is self._turn:  # what is still coming in was not accepted
            super().shutdown()
            return
        accepted = [turn for turn in self._turns if turn is not self._turn]
        accepted[-1].keep_alive = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def _read_on(self) -> None:
        if len(self._turns) < PIPELINED and self._held is None and not self.flow.write_paused:
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()

    # Idleness: one timer a connection, armed again only when it fires.

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        idle = self.loop.time() - self._last_heard
        busy = bool(self._turns) or self._asgi_runs()
        if not busy and idle >= self.timeout_keep_alive:
            super().timeout_keep_alive_handler()
        else:
            self._watch_idleness(self.timeout_keep_alive if busy else self.timeout_keep_alive - idle)


class Turn:
    """One hot request, until its answer has left."""

    __slots__ = ("body", "keep_alive", "protocol", "response")

    def __init__(self, protocol: HotProtocol) -> None:
        self.protocol = protocol
        self.body = b""
        self.keep_alive = True
        self.response = b""

    def ask(self, body: bytes) -> None:
        """Queue what the body asks for; `reply` is the engine's to call.

        Raises
        ------
        CarryoverError : nothing was queued
        """
        raise NotImplementedError

    def answered(self, outcome: Any) -> tuple[bytes, bytes]:
        """Content type and body of a success."""
        raise NotImplementedError

    def reply(self, outcome: Any) -> None:
        """The engine's answer. Leaves at once when those before it have left."""
        status, more = 200, b""
        if isinstance(outcome, CarryoverError):
            status, told, headers = problem(outcome)
            kind, body = PROBLEM, orjson.dumps(told)
            more = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        else:
            kind, body = self.answered(outcome)
        self.respond(status, kind, body, more)

    def respond(self, status: int, kind: bytes, body: bytes, more: bytes = b"") -> None:
        """Leave with these, and whole lines of more headers, once those before it have left."""
        close = b"" if self.keep_alive else b"connection: close\r\n"
        self.response = b"%b%b%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            STATUS_LINE[status], self.protocol.stamp(), more, close, kind, len(body), body,
        )  # fmt: skip
        self.protocol.leave()


class _ChunkTurn(Turn):
    """`POST /sessions/{id}/observations`."""

    __slots__ = ("flat", "session")

    def __init__(self, protocol: HotProtocol, session: str) -> None:
        super().__init__(protocol)
        self.session = session
        self.flat = False

    def ask(self, body: bytes) -> None:
        told = wire.chunk(body, self.protocol.limits.chunk)
        self.flat = told.flat
        self.protocol.engine.submit(
            Advance(
                self.session,
                told.observations,
                told.at,
                told.epoch,
                told.horizon,
                told.model,
                self.reply,
                extras=told.extras,
            )
        )

    def answered(self, outcome: Any) -> tuple[bytes, bytes]:
        return JSON, wire.advanced(outcome, self.flat)


class _BulkTurn(Turn):
    """`POST /observations`."""

    __slots__ = ("accept", "content_type", "request")

    def __init__(self, protocol: HotProtocol, content_type: str, accept: str) -> None:
        super().__init__(protocol)
        self.content_type = content_type
        self.accept = accept
        self.request: bulk.Request

    def ask(self, body: bytes) -> None:
        self.request = bulk.read(body, self.content_type, self.accept, self.protocol.limits)
        self.request.submit(self.protocol.engine, self.reply)

    def answered(self, outcome: Any) -> tuple[bytes, bytes]:
        body, content_type = bulk.encode(outcome, self.request)
        return content_type.encode(), body
