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
import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from random import uniform
from time import perf_counter
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.access.callers import Caller, Door
from app.api.errors import MEDIA_TYPE, problem
from app.api.middleware.body_limit import too_large
from app.codec import bulk, chunks
from app.engine.fair_share import ROUTED, Lane
from app.errors import CarryoverError, Forbidden, OverLimit, Unauthorized
from app.jobs.jobs import Advance
from app.observability import logs
from app.observability.tracing import PARENT

log = logging.getLogger("carryover.access")

BULK = b"/observations"
OBSERVATIONS = re.compile(rb"/sessions/([A-Za-z0-9._:\-]{1,128})/observations")
PIPELINED = 32
"""Requests of one connection that may wait for an answer before it is read no further."""

HEAD_BYTES = 65_536
"""Of a request that are no body: its head, and what trails behind a body in chunks."""
PIECE, BODY_PIECE = 1024, 16_384
"""Bytes parsed at once while several tenants call: a few small requests; or of a body that goes to the
router, for which there is no lane to be looked at in between."""
CALM_SECONDS = 1.0
"""For which a connection whose key is over its quota is read no further, about."""
ABORT_SECONDS = 5.0
"""After which a connection that was closed is cut off, though its client has not read all of it."""
TO_PARENT = frozenset((b"origin", b"carryover-tenant"))
"""Headers of requests that the long way looks at: of a browser's page, of an admin in another's place."""

Route = Callable[["HotProtocol"], "Turn | None"]
"""Makes the turn of a request whose headers have come; None leaves it to the parent."""

JSON = b"application/json"
PROBLEM = MEDIA_TYPE.encode()


class HotProtocol(HttpToolsProtocol):
    """One connection. `bound` gives the class its engine and limits."""

    door: ClassVar[Door]
    limits: ClassVar[bulk.BulkLimits]
    most_bytes: ClassVar[int]
    hot: ClassVar[bool] = True
    caller: Caller  # who sends the request that is coming in
    request_id: bytes
    others: ClassVar[Mapping[bytes, Route]] = {}
    """By what the address begins with: hot routes of other modules."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._turns: deque[Turn] = deque()  # hot requests not answered yet, in order
        self._turn: Turn | None = None  # the one whose body is coming in
        self._held: tuple[RequestResponseCycle, Any] | None = None  # an ASGI request behind them
        self._last_heard = 0.0
        self._began: float | None = None  # when the message began that is coming in
        self._bytes = 0  # of it that were no body, since its body was last heard
        self._unread_since: float | None = None  # our answers lie unread
        self._calming = False  # its key is over a quota
        self._lane: Lane | None = None  # of the tenant who sent last
        self._unparsed = b""  # came in beyond the tenant's share of the loop
        self._in_line = False  # of its tenant's lane, to go on
        self._known: bytes | None = b""  # the key that `caller` came with
        self._known_at = -1
        self._stamped: object = None
        self._stamp = b""

    @classmethod
    def bound(
        cls,
        door: Door,
        limits: bulk.BulkLimits,
        others: Mapping[bytes, Route] | None = None,
    ) -> type[HotProtocol]:
        """The class for the server behind this door."""
        own = {"door": door, "limits": limits, "others": others or {}}
        own |= {"most_bytes": door.settings.body_bytes, "hot": door.settings.hot_route}
        return type("BoundHotProtocol", (cls,), own)

    # Coming in: uvicorn and the parser call these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.door.settings.connections:
            self.door.engine.metrics.refusals["connections"] += 1
            transport.abort()
            return
        self._last_heard = self.loop.time()
        self._watch_idleness(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._turns.clear()
        self._turn = None
        self._held = None
        self._unparsed = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        # The parent's, less a timer cancelled and armed again for every request: see _watch_idleness.
        self._last_heard = self.loop.time()
        if self._unparsed or self._in_line or self.door.engine.lanes.shared:
            self._parse_in_turn(data)
        else:
            self._parse(data)

    # Among several tenants no more of one is parsed than its lane has room for: what its connections sent
    # beyond that stays with them, and they wait in the lane's line to be read on.

    def _parse_in_turn(self, data: bytes) -> None:
        self._unparsed += data
        while self._unparsed and not self._waits():
            piece = BODY_PIECE if self._turn is None and self._asgi_runs() else PIECE
            part, self._unparsed = self._unparsed[:piece], self._unparsed[piece:]
            self._parse(part)
            if self not in self.connections or self.transport.is_closing():
                self._unparsed = b""
                self._hand_over()
                return
        if self._waits():
            self.flow.pause_reading()
        else:
            self._read_on()

    def _waits(self) -> bool:
        """Whether nothing more should be parsed now; in its tenant's line if that is why."""
        lane = self._lane
        if lane is not None and lane.full and not self._in_line:
            self._in_line = True
            lane.wait(self)
        return self._in_line or self._calming

    def go_on(self) -> None:
        """The tenant's lane has room again."""
        self._in_line = False
        if self in self.connections:
            self._parse_in_turn(b"")

    def _hand_over(self) -> None:
        """Whoever a connection was upgraded to reads on, though we had paused."""
        if self not in self.connections and not self.transport.is_closing():
            self.flow.resume_reading()

    def _parse(self, data: bytes) -> None:
        self._bytes += len(data)
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
        if self._bytes > HEAD_BYTES and self._began is not None:
            self._hang_up(431)

    def on_message_begin(self) -> None:
        self._began = self._last_heard
        self._bytes = 0
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
        self._bytes = 0
        turn = self._turn
        if turn is None:
            super().on_body(body)
        elif not turn.response:
            if not turn.body:
                turn.body = body
            else:
                if type(turn.body) is bytes:  # of several pieces: added to in place from here on
                    turn.body = bytearray(turn.body)
                turn.body += body
            if len(turn.body) > turn.caller.most_bytes:
                self._refuse_body(turn)

    def on_message_complete(self) -> None:
        self._began = None
        self._bytes = 0
        turn = self._turn
        if turn is None:
            super().on_message_complete()
            return
        self._turn = None
        if turn.response:
            return
        body, turn.body = turn.body, b""
        try:
            turn.ask(bytes(body))
        except CarryoverError as error:
            turn.reply(error)

    def _hot_turn(self) -> Turn | None:
        """What answers this request, when nothing about it needs the parent."""
        match = OBSERVATIONS.fullmatch(self.url)
        if (
            (match is None and self.url != BULK and not self.url.startswith(tuple(self.others)))
            or not self.hot
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self.expect_100_continue
            or self.parser.should_upgrade()
            or self.limit_concurrency is not None
            or self._asgi_runs()
            or not self._is_plain()
        ):
            return None
        if match is not None:
            return _ChunkTurn(self, match[1].decode("ascii"))
        if self.url == BULK:
            return _BulkTurn(self, self.header(b"content-type"), self.header(b"accept"))
        return next(make(self) for start, make in self.others.items() if self.url.startswith(start))

    def _is_plain(self) -> bool:
        """Who asks, and whether by a request that neither its sender, its size nor its key makes special."""
        authorization, parent = None, b""
        length = 0
        self.request_id = b""
        for name, value in self.headers:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length":
                length = int(value)
            elif name == b"x-request-id":
                self.request_id = value
            elif name == b"traceparent":
                parent = value
            elif name in TO_PARENT:
                return False
        if parent and not self.request_id:
            self.request_id = parent[3:35]  # the trace's id
        if self.door.engine.tracing is not None:
            PARENT.set(parent.decode("latin-1"))
        return self._is_known(authorization) and length <= self.caller.most_bytes

    def _is_known(self, authorization: bytes | None) -> bool:
        """Whether the key is a good one; `caller` is then who has it."""
        door = self.door
        if authorization != self._known or door.changes != self._known_at:
            try:
                self.caller = door.caller(authorization)
                self._lane = self.caller.use.lane
            except (Unauthorized, Forbidden):
                return False
            # What this connection sent before may be compared plainly with what it sends now.
            self._known, self._known_at = authorization, door.changes
        return True

    def _authorization(self) -> bytes | None:
        return next((value for name, value in self.headers if name == b"authorization"), None)

    def header(self, wanted: bytes) -> str:
        """A header of the request that is coming in; empty where it has none."""
        return next((value.decode("latin-1") for name, value in self.headers if name == wanted), "")

    def _asgi_runs(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first; the parent's type denies it
        return cycle is not None and not cycle.response_complete

    def _leave_to_parent(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        if self.door.ring is not None and self._is_known(self._authorization()):
            self.caller.use.lane.pass_by(ROUTED)
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
        turn.reply(too_large(turn.caller.most_bytes))

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
        self._unread_since = None
        super().resume_writing()
        self._read_on()

    def _read_on(self) -> None:
        waits = self._held is not None or self.flow.write_paused or self._calming or self._in_line
        waits = waits or bool(self._unparsed)  # which is being parsed, or waits itself
        waits = waits or bool(self.pipeline) or self._is_ahead()
        if len(self._turns) < PIPELINED and not waits:
            self.flow.resume_reading()

    def _is_ahead(self) -> bool:
        """Whether a body is far ahead of the ASGI request that reads it: the parent paused for that."""
        return self._asgi_runs() and len(self.cycle.body) > HIGH_WATER_LIMIT

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()
        self.flow.pause_reading()

    # Idleness: one timer a connection, armed again only when it fires.

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    @property
    def _patience(self) -> float:
        return min(self.timeout_keep_alive, self.door.settings.request_seconds)

    def timeout_keep_alive_handler(self) -> None:
        now, patience = self.loop.time(), self.door.settings.request_seconds
        if self._unread_since is not None and now - self._unread_since >= patience:
            self.transport.abort()  # nobody reads what is owed; to close would wait for them
        elif self._began is not None and now - self._began >= patience:
            self._hang_up(408)
        elif now - self._last_heard >= self.timeout_keep_alive and not self._is_busy():
            super().timeout_keep_alive_handler()
            self.loop.call_later(ABORT_SECONDS, self.transport.abort)
        else:
            self._watch_idleness(self._patience)

    def _is_busy(self) -> bool:
        return bool(self._turns) or self._in_line or self._asgi_runs()

    def _hang_up(self, status: int) -> None:
        """Close on a client that does not come to an end; say why, if nothing else is owed."""
        self.door.engine.metrics.requests["unknown", status] += 1
        if not self._asgi_runs() and all(turn is self._turn for turn in self._turns):
            self.transport.write(STATUS_LINE[status] + b"connection: close\r\ncontent-length: 0\r\n\r\n")
        self._turns.clear()
        self._turn = self._began = None
        self.transport.close()
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)

    # A key over its quota: to read on, only to refuse, would cost the others what it asks too much.

    def calm(self, seconds: float) -> None:
        """Read no further for so long."""
        if not self._calming:
            self._calming = True
            self.flow.pause_reading()
            # Not all at once: whoever is refused together would come back together.
            self.loop.call_later(min(seconds, CALM_SECONDS) * uniform(0.5, 1.5), self._calmed)

    def _calmed(self) -> None:
        self._calming = False
        if self in self.connections:
            self._parse_in_turn(b"")
        else:
            self._hand_over()


class Turn:
    """One hot request, until its answer has left."""

    __slots__ = ("began", "body", "caller", "keep_alive", "protocol", "request_id", "response")
    route = ""  # as the OpenAPI document has it

    def __init__(self, protocol: HotProtocol) -> None:
        self.protocol = protocol
        self.caller = protocol.caller
        self.request_id = protocol.request_id
        self.began = perf_counter()
        self.body: bytes | bytearray = b""
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
            self.refused(outcome)
            status, told, headers = problem(outcome)
            kind, body = PROBLEM, orjson.dumps(told)
            more = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        else:
            kind, body = self.answered(outcome)
        self.respond(status, kind, body, more)

    def respond(self, status: int, kind: bytes, body: bytes, more: bytes = b"") -> None:
        """Leave with these, and whole lines of more headers, once those before it have left."""
        if self.request_id:
            given = logs.request_id(self.request_id.decode("latin-1"), None)
            more += b"x-request-id: %b\r\n" % given.encode()
        self._note(status)
        close = b"" if self.keep_alive else b"connection: close\r\n"
        self.response = b"%b%b%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            STATUS_LINE[status], self.protocol.stamp(), more, close, kind, len(body), body,
        )  # fmt: skip
        self.protocol.leave()

    def refused(self, error: CarryoverError) -> None:
        """Count a refusal; a client that asks too often is not heard for a while."""
        self.caller.engine.metrics.refused(error)
        if isinstance(error, OverLimit):
            self.protocol.calm(error.retry_after_seconds)

    def _note(self, status: int) -> None:
        seconds = perf_counter() - self.began
        self.caller.engine.metrics.answered(self.route, status, seconds)
        if self.protocol.door.settings.access_log:
            self._log(status, seconds)

    def _log(self, status: int, seconds: float) -> None:
        given = self.request_id.decode("latin-1")
        fields = {"method": "POST", "route": self.route, "status": status, "ms": round(1000 * seconds, 3)}
        if self.caller.key is not None:
            fields |= {"key": self.caller.key.name, "tenant": self.caller.tenant}
        log.info("request", extra=fields | {"request_id": logs.request_id(given, None)})


class _ChunkTurn(Turn):
    """`POST /sessions/{id}/observations`."""

    __slots__ = ("flat", "session")
    route = "/sessions/{id}/observations"

    def __init__(self, protocol: HotProtocol, session: str) -> None:
        super().__init__(protocol)
        self.session = session
        self.flat = False

    def ask(self, body: bytes) -> None:
        told = chunks.chunk(body, self.protocol.limits.chunk)
        self.flat = told.flat
        self.caller.submit(
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
        return JSON, chunks.advanced(outcome, self.flat)


class _BulkTurn(Turn):
    """`POST /observations`."""

    __slots__ = ("accept", "content_type", "request")
    route = "/observations"

    def __init__(self, protocol: HotProtocol, content_type: str, accept: str) -> None:
        super().__init__(protocol)
        self.content_type = content_type
        self.accept = accept
        self.request: bulk.Request

    def ask(self, body: bytes) -> None:
        self.request = bulk.read(body, self.content_type, self.accept, self.protocol.limits)
        self.request.submit(self.caller, self.reply)

    def answered(self, outcome: Any) -> tuple[bytes, bytes]:
        for error in outcome.errors.values():
            self.refused(error)
        body, content_type = bulk.encode(outcome, self.request)
        return content_type.encode(), body
