"""The hot route: chunks answered inside uvicorn's HTTP protocol, ahead of ASGI, router and middleware.

For a chunk of one observation, a web framework takes several times longer than the model
itself. `HotProtocol` is uvicorn's own httptools protocol; it looks at each request line, handles the
routes that carry data, and leaves every other or doubtful request to its parent class, which gives the same
answer more slowly. A request here is no task and no coroutine: its body becomes a job, and the
engine's reply writes the answer to the transport.

What HTTP asks of such a class:

- Answers leave in the order of their requests. Hot requests of one connection wait in `_exchanges`. If a
  hot request arrives while an ASGI request runs, the parent queues and answers it. If an ASGI request arrives
  while hot requests wait, it is held until they are answered.
- Buffers are bounded: reading pauses while `MAX_PIPELINED` answers wait, or while the client does not read
  its answers. A body is refused as soon as it exceeds the limit.
- If a client hangs up, its answer is dropped, and the other clients notice nothing.
- On shutdown what was accepted is answered, with `connection: close`.

The setting `hot_route` turns it off.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.access.callers import Authenticator, Caller
from app.access.origins import check_host
from app.codec import bulk
from app.codec.limits import SESSION_ID, SMALL_BODY_BYTES
from app.codec.plain_requests import Head
from app.codec.problems import body_too_large_error
from app.engine.fair_share import CHUNKS_PER_ROUTED_REQUEST
from app.errors import CarryoverError, Forbidden, Misdirected, Unauthorized
from app.observability.tracing import TRACEPARENT
from app.protocols.exchange import BulkExchange, ChunkExchange, Exchange
from app.protocols.http_connection import HttpConnection
from app.protocols.inbox import Inbox

log = logging.getLogger("carryover.api")

BULK = b"/observations"
OBSERVATIONS = re.compile(rb"/sessions/(%b)/observations" % SESSION_ID.pattern.encode())
MAX_MISSES = 16
"""After so many requests in a row that were not plain, a connection's requests are no longer tried."""
MAX_PIPELINED = 32
"""When so many requests of one connection wait for answers, the server stops reading from it."""
ROUTED_HEADERS = frozenset((b"origin", b"carryover-tenant", b"content-encoding"))
"""Headers that need the router: from a browser, from an admin in another tenant, of a compressed body."""

ExchangeFactory = Callable[["HotProtocol"], "Exchange | None"]
"""Creates the exchange when a request's headers are complete; returns None to leave it to the router."""


class Plain(Enum):
    """How a connection reads what comes in next."""

    NO = "by its parser"
    NEXT = "what comes in next goes to the inbox"
    IN_INBOX = "it is in the inbox"
    AWAITED = "it was a plain request, which waits for its answer"


class HotProtocol(HttpConnection):
    """One connection. `bind` gives the class its engine and limits."""

    bulk_decoder: ClassVar[bulk.BulkDecoder]
    inbox: ClassVar[Inbox]
    limits: ClassVar[bulk.BulkLimits]
    max_bytes: ClassVar[int]
    hot_route: ClassVar[bool] = True
    logs_requests: ClassVar[bool] = False
    extra_routes: ClassVar[Mapping[bytes, ExchangeFactory]] = {}
    """Hot routes of other modules, by URL prefix."""
    caller: Caller  # of the request that is coming in
    request_id: bytes

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._exchanges: deque[Exchange] = deque()  # hot requests not answered yet, in order
        self._exchange: Exchange | None = None  # the one whose body is arriving, the last in `_exchanges`
        self._held: tuple[RequestResponseCycle, Any] | None = None  # an ASGI request waiting for them
        self._known_authorization: bytes | None = b""  # the header that `caller` was found by
        self._known_version = -1  # the version of the keys when `caller` was looked up
        self._known_host: bytes | None = None  # the host that was accepted last
        self._plain = Plain.NO
        self.head: Head  # of the last request, where `_has_head`
        self._has_head = False  # the last piece that was parsed was a whole ordinary chunk, and nothing else
        self._misses = 0  # pieces in a row that were not plain
        self._awaited: ChunkExchange | None = None  # of a plain request that is no longer alone

    @classmethod
    def bind(
        cls,
        authenticator: Authenticator,
        bulk_decoder: bulk.BulkDecoder,
        extra_routes: Mapping[bytes, ExchangeFactory] | None = None,
    ) -> type[HotProtocol]:
        """The class for one server."""
        own = {"authenticator": authenticator, "bulk_decoder": bulk_decoder, "limits": bulk_decoder.limits}
        own |= {"extra_routes": extra_routes or {}}
        settings = authenticator.settings
        own |= {"max_bytes": settings.body_bytes, "hot_route": settings.hot_route}
        own |= {"logs_requests": settings.access_log}
        own |= {"inbox": Inbox(authenticator.engine, bulk_decoder.limits.chunk.observations)}
        return type("BoundHotProtocol", (cls,), own)

    # Plain requests: what comes in behind an ordinary chunk goes to the inbox, unparsed.

    def data_received(self, data: bytes) -> None:
        if self._plain is Plain.NEXT:
            self._plain = Plain.IN_INBOX
            self._last_heard = self.loop.time()
            self.inbox.put(self, data)
        else:
            if self._plain is not Plain.NO:
                data = self._end_plain() + data
            super().data_received(data)

    def parse_piece(self, data: bytes, *, plain: bool) -> None:
        """Parse what was in the inbox: it is not plain, or could not be submitted with the others.

        It is called from the engine's task, which must not end because of one connection.
        """
        self._plain = Plain.NO
        self._misses += not plain
        try:
            super().data_received(data)
        except Exception:
            log.exception("a connection failed and is closed; the others go on")
            self.transport.abort()

    def await_answer(self) -> None:
        """Note that a plain request was submitted, and is not answered yet."""
        self._plain = Plain.AWAITED

    def write_plain(self, response: bytes) -> None:
        """Write the response to the plain request."""
        if self._plain is Plain.IN_INBOX or self._plain is Plain.AWAITED:
            self._plain = Plain.NEXT
            self._misses = 0
            self.server_state.total_requests += 1
            self.transport.write(response)
        elif self._awaited is not None:
            exchange, self._awaited = self._awaited, None
            exchange.set_plain_response(response)
            self.write_answers()

    def plain_exchange(self, session: str, *, flat: bool) -> ChunkExchange:
        """The exchange of the plain request, which can be answered in any way."""
        if self._plain is not Plain.NO:
            self._plain = Plain.AWAITED
            self._end_plain()
        exchange, self._awaited = self._awaited or ChunkExchange(self, session), None
        exchange.session, exchange.flat = session, flat
        return exchange

    def _end_plain(self) -> bytes:
        """Leave what is plain to the ordinary ways. Returns what must be parsed before anything else."""
        state, self._plain = self._plain, Plain.NO
        if state is Plain.IN_INBOX:
            return self.inbox.take_back(self)
        if state is Plain.AWAITED:
            self._awaited = ChunkExchange(self, "")
            self._exchanges.append(self._awaited)
        return b""

    def parse(self, data: bytes) -> None:
        self._has_head = False
        at_rest = not self._exchanges and self._message_began is None
        messages = self._messages
        super().parse(data)
        # `head` and `caller` must be of the same request: the only one of this piece, which came whole.
        if (
            at_rest
            and self._messages == messages + 1
            and self._message_began is None
            and self._exchanges
            and self._misses < MAX_MISSES
        ):
            self._note_head(data)

    def _note_head(self, data: bytes) -> None:
        """Remember the head of an ordinary chunk request."""
        exchange = self._exchanges[0]
        if (
            type(exchange) is ChunkExchange
            and exchange.keep_alive
            and not exchange.request_id
            and exchange.caller.max_bytes >= SMALL_BODY_BYTES
            and not self.logs_requests
            and self.authenticator.engine.tracing is None
            and (head := Head.of(data)) is not None
        ):
            self.head, self._has_head = head, True

    # Coming in: the parser calls these.

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._exchange = exchange = self._hot_exchange()
        if exchange is None:
            self._leave_to_router()
            return
        self._exchanges.append(exchange)
        exchange.keep_alive = self.parser.should_keep_alive()
        if len(self._exchanges) >= MAX_PIPELINED:
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
            return
        self._head_bytes = 0
        if not exchange.response:
            if not exchange.body:
                exchange.body = body
            else:
                if type(exchange.body) is bytes:  # the body has several pieces: a bytearray can grow in place
                    exchange.body = bytearray(exchange.body)
                exchange.body += body
            if len(exchange.body) > exchange.caller.max_bytes:
                self._refuse_body(exchange)

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        self._message_began = self._exchange = None
        self._head_bytes = 0
        if exchange.response:
            return
        body, exchange.body = exchange.body, b""
        try:
            exchange.submit(bytes(body))
        except CarryoverError as error:
            exchange.reply(error)
        except Exception as error:  # noqa: BLE001  (whatever it was, the client is answered)
            exchange.crash(error)

    # Which requests are hot, and whose they are.

    def _hot_exchange(self) -> Exchange | None:
        """The exchange that answers this request, or None if the router must handle it."""
        match = OBSERVATIONS.fullmatch(self.url)
        if (
            (match is None and self.url != BULK and not self.url.startswith(tuple(self.extra_routes)))
            or not self.hot_route
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self.expect_100_continue
            or self.limit_concurrency is not None
            or self._asgi_runs()
            or self._head_is_too_long()
            or not self._is_plain()
        ):
            return None
        if match is not None:
            return ChunkExchange(self, match[1].decode("ascii"))
        if self.url == BULK:
            size = self.header(b"content-length")
            if bulk.is_slow(int(size) if size else None):
                return None
            return BulkExchange(self, self.header(b"content-type"), self.header(b"accept"))
        return next(make(self) for start, make in self.extra_routes.items() if self.url.startswith(start))

    def _is_plain(self) -> bool:
        """True if no header and no key needs the router. Also sets `caller` and `request_id`."""
        authorization, host, parent = None, None, b""
        length = hosts = authorizations = 0
        self.request_id = b""
        for name, value in self.headers:
            if name == b"host":
                host = value
                hosts += 1
            elif name == b"authorization":
                authorization = value
                authorizations += 1
            elif name == b"content-length":
                length = int(value)
            elif name == b"x-request-id":
                self.request_id = value
            elif name == b"traceparent":
                parent = value
            elif name in ROUTED_HEADERS and not (
                name == b"content-encoding" and self.url.startswith(tuple(self.extra_routes))
            ):  # those routes decompress by themselves
                return False
        if hosts != 1 or authorizations > 1 or (host != self._known_host and not self._accepts_host(host)):
            return False
        if parent or self.authenticator.engine.tracing is not None:
            self._note_trace(parent)
        return self._is_authenticated(authorization) and length <= self.caller.max_bytes

    def _note_trace(self, parent: bytes) -> None:
        if parent and not self.request_id:
            self.request_id = parent[3:35]  # the trace's id
        if self.authenticator.engine.tracing is not None:
            TRACEPARENT.set(parent.decode("latin-1"))

    def _accepts_host(self, host: bytes | None) -> bool:
        try:
            check_host((host or b"").decode("latin-1"), self.authenticator.settings.accepted_host_names)
        except Misdirected:
            return False
        self._known_host = host
        return True

    def _is_authenticated(self, authorization: bytes | None) -> bool:
        """Whether the key is valid; `caller` is then its owner."""
        authenticator = self.authenticator
        if authorization != self._known_authorization or authenticator.key_version != self._known_version:
            try:
                self.caller = authenticator.authenticate(authorization)
                self.reader.share = self.caller.usage.share
            except (Unauthorized, Forbidden):
                return False
            # A constant-time comparison is not needed: this client sent both values itself.
            self._known_authorization, self._known_version = authorization, authenticator.key_version
        return True

    def header(self, name: bytes) -> str:
        """A header of the request that is coming in; empty where it has none."""
        return next((value.decode("latin-1") for other, value in self.headers if other == name), "")

    # Requests that go to the router.

    def _leave_to_router(self) -> None:
        authorization = next((value for name, value in self.headers if name == b"authorization"), None)
        if self.authenticator.key_ring is not None and self._is_authenticated(authorization):
            self.caller.usage.share.acquire_briefly(CHUNKS_PER_ROUTED_REQUEST)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._exchanges:
            self._held = (cycle, app)
            self.flow.pause_reading()
        else:
            super()._start_asgi_task(cycle, app)

    def _refuse_body(self, exchange: Exchange) -> None:
        """Answer at once; the rest of the body is discarded as it comes in."""
        exchange.body = b""
        exchange.reply(body_too_large_error(exchange.caller.max_bytes))

    # Going out.

    def write_answers(self) -> None:
        """Write the answers that are next in the order of their requests."""
        exchanges = self._exchanges
        while exchanges and exchanges[0].response:
            exchange = exchanges.popleft()
            self.server_state.total_requests += 1
            self.transport.write(exchange.response)
            if not exchange.keep_alive:
                exchanges.clear()
                self.close_gently()
                return
        if not exchanges and self._held is not None:
            cycle, app = self._held
            self._held = None
            super()._start_asgi_task(cycle, app)
        if self._last_answer is not None:
            self._finish()
        elif self.flow.read_paused:
            self.resume_reading()
        else:
            self._rest()

    def resume_reading(self) -> None:
        """Resume reading, unless an ASGI request is held or too many answers wait."""
        if self._held is None and len(self._exchanges) < MAX_PIPELINED:
            super().resume_reading()
            self._rest()

    def _rest(self) -> None:
        """Have what comes in next go to the inbox, if nothing is owed and nothing is coming in."""
        if (
            self._has_head
            and self._plain is Plain.NO
            and not self._exchanges
            and not (self._asgi_runs() or self.reader.is_waiting or self._is_stopping or self._is_refused)
        ):
            self._plain = Plain.NEXT

    def shutdown(self) -> None:
        """Close once what was accepted is answered; a request that is still coming in was not accepted."""
        if data := self._end_plain():
            self.parse(data)
        if self._exchanges and self._message_began is None and not self._asgi_runs():
            self._exchanges[-1].keep_alive = False
        else:
            super().shutdown()

    @property
    def _owes_answers(self) -> bool:
        return bool(self._exchanges) or self._plain in (Plain.IN_INBOX, Plain.AWAITED)

    def _drop_incoming(self) -> bool:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            if self._held is not None and self._held[0] is self._incoming:
                self._held = None
            return super()._drop_incoming()
        self._message_began = None
        if exchange.response:
            return False
        self._exchanges.remove(exchange)
        return True

    def _forget_requests(self) -> None:
        # What came in whole before the client hung up is applied, as if it had been parsed at once.
        if (data := self._end_plain()) and not self.caller.usage.share.full:
            self.parse(data)
        self._awaited = None
        self._exchanges.clear()
        self._exchange = self._held = None
