"""The hot route: chunks answered inside uvicorn's HTTP protocol, ahead of ASGI, router and middleware.

For a chunk of one observation everything that a web framework does costs several times what the model
does. `HotProtocol` is uvicorn's own httptools protocol; it looks at each request line, takes the routes
that carry data for itself, and leaves every other request, and any that it is not sure of, to the parent,
whose answer is the same. A request here is no task and no coroutine: its body becomes a job, and the
engine's reply writes the answer to the transport.

What HTTP asks of such a class:

- Answers leave in the order of their requests. Hot requests of one connection wait in `_exchanges`; one that
  arrives while an ASGI request runs is left to the parent, which has a queue of its own; an ASGI request
  that arrives while hot ones wait is held until they have left.
- Nobody is buffered without bound: reading pauses while `MAX_PIPELINED` answers wait, or while the client
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
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.access.callers import Authenticator, Caller
from app.codec import bulk
from app.codec.problems import body_too_large_error
from app.engine.fair_share import CHUNKS_PER_ROUTED_REQUEST, TenantShare
from app.errors import CarryoverError, Forbidden, Unauthorized
from app.observability.tracing import TRACEPARENT
from app.protocols.exchange import BulkTurn, ChunkTurn, Exchange

log = logging.getLogger("carryover.access")

BULK = b"/observations"
OBSERVATIONS = re.compile(rb"/sessions/([A-Za-z0-9._:\-]{1,128})/observations")
MAX_PIPELINED = 32
"""Requests of one connection that may wait for an answer before it is read no further."""

MAX_HEAD_BYTES = 65_536
"""Of a request that are no body: its head, and what trails behind a body in chunks."""
PARSE_BYTES, BODY_PARSE_BYTES = 1024, 16_384
"""Bytes parsed at once while several tenants call: a few small requests; or of a body that goes to the
router, for which there is no lane to be looked at in between."""
THROTTLE_SECONDS = 1.0
"""For which a connection whose key is over its quota is read no further, about."""
ABORT_SECONDS = 5.0
"""After which a connection that was closed is cut off, though its client has not read all of it."""
PARENT_HEADERS = frozenset((b"origin", b"carryover-tenant"))
"""Headers of requests that the long way looks at: of a browser's page, of an admin in another's place."""

ExchangeFactory = Callable[["HotProtocol"], "Exchange | None"]
"""Makes the turn of a request whose headers have come; None leaves it to the parent."""


class HotProtocol(HttpToolsProtocol):
    """One connection. `bind` gives the class its engine and limits."""

    authenticator: ClassVar[Authenticator]
    bulk_decoder: ClassVar[bulk.BulkDecoder]
    limits: ClassVar[bulk.BulkLimits]
    max_bytes: ClassVar[int]
    hot_route: ClassVar[bool] = True
    caller: Caller  # who sends the request that is coming in
    request_id: bytes
    extra_routes: ClassVar[Mapping[bytes, ExchangeFactory]] = {}
    """By what the address begins with: hot routes of other modules."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._exchanges: deque[Exchange] = deque()  # hot requests not answered yet, in order
        self._exchange: Exchange | None = None  # the one whose body is coming in
        self._held: tuple[RequestResponseCycle, Any] | None = None  # an ASGI request behind them
        self._last_heard = 0.0
        self._began: float | None = None  # when the message began that is coming in
        self._bytes = 0  # of it that were no body, since its body was last heard
        self._unread_since: float | None = None  # our answers lie unread
        self._throttled = False  # its key is over a quota
        self._share: TenantShare | None = None  # of the tenant who sent last
        self._unparsed = b""  # came in beyond the tenant's share of the loop
        self._in_line = False  # of its tenant's lane, to go on
        self._known: bytes | None = b""  # the key that `caller` came with
        self._known_at = -1
        self._stamped: object = None
        self._stamp = b""

    @classmethod
    def bind(
        cls,
        authenticator: Authenticator,
        bulk_decoder: bulk.BulkDecoder,
        extra_routes: Mapping[bytes, ExchangeFactory] | None = None,
    ) -> type[HotProtocol]:
        """The class for the server behind this door."""
        own = {"authenticator": authenticator, "bulk_decoder": bulk_decoder, "limits": bulk_decoder.limits}
        own |= {"extra_routes": extra_routes or {}}
        own |= {"max_bytes": authenticator.settings.body_bytes, "hot_route": authenticator.settings.hot_route}
        return type("BoundHotProtocol", (cls,), own)

    # Coming in: uvicorn and the parser call these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.authenticator.settings.connections:
            self.authenticator.engine.metrics.refusals["connections"] += 1
            transport.abort()
            return
        self._last_heard = self.loop.time()
        self._watch_idleness(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._exchanges.clear()
        self._exchange = None
        self._held = None
        self._unparsed = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        # The parent's, less a timer cancelled and armed again for every request: see _watch_idleness.
        self._last_heard = self.loop.time()
        if self._unparsed or self._in_line or self.authenticator.engine.fair_share.contended:
            self._parse_in_turn(data)
        else:
            self._parse(data)

    # Among several tenants no more of one is parsed than its lane has room for: what its connections sent
    # beyond that stays with them, and they wait in the lane's line to be read on.

    def _parse_in_turn(self, data: bytes) -> None:
        self._unparsed += data
        while self._unparsed and not self._waits():
            piece = BODY_PARSE_BYTES if self._exchange is None and self._asgi_runs() else PARSE_BYTES
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
        share = self._share
        if share is not None and share.full and not self._in_line:
            self._in_line = True
            share.add_waiter(self)
        return self._in_line or self._throttled

    def resume(self) -> None:
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
        if self._bytes > MAX_HEAD_BYTES and self._began is not None:
            self._hang_up(431)

    def on_message_begin(self) -> None:
        self._began = self._last_heard
        self._bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._exchange = exchange = self._hot_exchange()
        if exchange is None:
            self._leave_to_parent()
            return
        self._exchanges.append(exchange)
        exchange.keep_alive = self.parser.should_keep_alive()
        if len(self._exchanges) >= MAX_PIPELINED:
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._bytes = 0
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        elif not exchange.response:
            if not exchange.body:
                exchange.body = body
            else:
                if type(exchange.body) is bytes:  # of several pieces: added to in place from here on
                    exchange.body = bytearray(exchange.body)
                exchange.body += body
            if len(exchange.body) > exchange.caller.max_bytes:
                self._refuse_body(exchange)

    def on_message_complete(self) -> None:
        self._began = None
        self._bytes = 0
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        self._exchange = None
        if exchange.response:
            return
        body, exchange.body = exchange.body, b""
        try:
            exchange.submit(bytes(body))
        except CarryoverError as error:
            exchange.reply(error)

    def _hot_exchange(self) -> Exchange | None:
        """What answers this request, when nothing about it needs the parent."""
        match = OBSERVATIONS.fullmatch(self.url)
        if (
            (match is None and self.url != BULK and not self.url.startswith(tuple(self.extra_routes)))
            or not self.hot_route
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
            return ChunkTurn(self, match[1].decode("ascii"))
        if self.url == BULK:
            return BulkTurn(self, self.header(b"content-type"), self.header(b"accept"))
        return next(make(self) for start, make in self.extra_routes.items() if self.url.startswith(start))

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
            elif name in PARENT_HEADERS:
                return False
        if parent and not self.request_id:
            self.request_id = parent[3:35]  # the trace's id
        if self.authenticator.engine.tracing is not None:
            TRACEPARENT.set(parent.decode("latin-1"))
        return self._is_known(authorization) and length <= self.caller.max_bytes

    def _is_known(self, authorization: bytes | None) -> bool:
        """Whether the key is a good one; `caller` is then who has it."""
        authenticator = self.authenticator
        if authorization != self._known or authenticator.key_version != self._known_at:
            try:
                self.caller = authenticator.authenticate(authorization)
                self._share = self.caller.usage.share
            except (Unauthorized, Forbidden):
                return False
            # What this connection sent before may be compared plainly with what it sends now.
            self._known, self._known_at = authorization, authenticator.key_version
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
        if self.authenticator.key_ring is not None and self._is_known(self._authorization()):
            self.caller.usage.share.acquire_briefly(CHUNKS_PER_ROUTED_REQUEST)
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._exchanges:
            self._held = (cycle, app)
            self.flow.pause_reading()
        else:
            super()._start_asgi_task(cycle, app)

    def _refuse_body(self, exchange: Exchange) -> None:
        """Answer at once; the rest of the body is thrown away as it comes in.

        Closing would reset the connection under a client that still writes, which then never reads why.
        """
        exchange.body = b""
        exchange.reply(body_too_large_error(exchange.caller.max_bytes))

    # Going out.

    def write_answers(self) -> None:
        """Write the answers whose turn it is."""
        exchanges = self._exchanges
        while exchanges and exchanges[0].response:
            exchange = exchanges.popleft()
            self.server_state.total_requests += 1
            self.transport.write(exchange.response)
            if not exchange.keep_alive:
                exchanges.clear()
                self.transport.close()
                return
        if not exchanges and self._held is not None:
            cycle, app = self._held
            self._held = None
            super()._start_asgi_task(cycle, app)
        self._read_on()

    def standard_headers(self) -> bytes:
        """The headers that uvicorn gives every answer; it replaces the list once a second."""
        if self._stamped is not self.server_state.default_headers:
            self._stamped = self.server_state.default_headers
            self._stamp = b"".join(
                name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers
            )
        return self._stamp

    def shutdown(self) -> None:
        if (
            not self._exchanges or self._exchanges[0] is self._exchange
        ):  # what is still coming in was not accepted
            super().shutdown()
            return
        accepted = [exchange for exchange in self._exchanges if exchange is not self._exchange]
        accepted[-1].keep_alive = False

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()
        self._read_on()

    def _read_on(self) -> None:
        waits = self._held is not None or self.flow.write_paused or self._throttled or self._in_line
        waits = waits or bool(self._unparsed)  # which is being parsed, or waits itself
        waits = waits or bool(self.pipeline) or self._is_ahead()
        if len(self._exchanges) < MAX_PIPELINED and not waits:
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
        return min(self.timeout_keep_alive, self.authenticator.settings.request_seconds)

    def timeout_keep_alive_handler(self) -> None:
        now, patience = self.loop.time(), self.authenticator.settings.request_seconds
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
        return bool(self._exchanges) or self._in_line or self._asgi_runs()

    def _hang_up(self, status: int) -> None:
        """Close on a client that does not come to an end; say why, if nothing else is owed."""
        self.authenticator.engine.metrics.requests["unknown", status] += 1
        if not self._asgi_runs() and all(exchange is self._exchange for exchange in self._exchanges):
            self.transport.write(STATUS_LINE[status] + b"connection: close\r\ncontent-length: 0\r\n\r\n")
        self._exchanges.clear()
        self._exchange = self._began = None
        self.transport.close()
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)

    # A key over its quota: to read on, only to refuse, would cost the others what it asks too much.

    def throttle(self, seconds: float) -> None:
        """Read no further for so long."""
        if not self._throttled:
            self._throttled = True
            self.flow.pause_reading()
            # Not all at once: whoever is refused together would come back together.
            self.loop.call_later(min(seconds, THROTTLE_SECONDS) * uniform(0.5, 1.5), self._end_throttle)

    def _end_throttle(self) -> None:
        self._throttled = False
        if self in self.connections:
            self._parse_in_turn(b"")
        else:
            self._hand_over()
