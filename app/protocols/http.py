"""The hot route: chunks answered inside uvicorn's HTTP protocol, ahead of ASGI, router and middleware.

For a chunk of one observation, a web framework takes several times longer than the model
itself. `HotProtocol` is uvicorn's own httptools protocol; it looks at each request line, handles the
routes that carry data, and leaves every other or doubtful request to its parent class, which gives the same
answer more slowly. A request here is no task and no coroutine: its body becomes a job, and the
engine's reply writes the answer to the transport.

`app.protocols.ordered_answers` keeps the order of answers, and `app.protocols.plain_reading` has the most
frequent requests read by the batch.

The setting `hot_route` turns it off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from app.access.callers import Authenticator
from app.access.origins import check_host
from app.codec import bulk
from app.codec.limits import SESSION_ID
from app.engine.fair_share import CHUNKS_PER_ROUTED_REQUEST
from app.errors import Forbidden, Misdirected, Unauthorized
from app.observability.tracing import TRACEPARENT
from app.protocols.exchange import BulkExchange, ChunkExchange, Exchange
from app.protocols.inbox import Inbox
from app.protocols.plain_reading import PlainReading
from app.workers.moving import ConnectionMover

log = logging.getLogger("carryover.api")

BULK = b"/observations"
OBSERVATIONS = re.compile(rb"/sessions/(%b)/observations" % SESSION_ID.pattern.encode())
ROUTED_HEADERS = frozenset((b"origin", b"carryover-tenant", b"content-encoding"))
"""Headers that need the router: from a browser, from an admin in another tenant, of a compressed body."""

TYPES = frozenset((b"content-type", b"accept"))
CSV = b"text/csv"  # of a body or an answer: it needs the router

ExchangeFactory = Callable[["HotProtocol"], "Exchange | None"]
"""Creates the exchange when a request's headers are complete; returns None to leave it to the router."""


class HotProtocol(PlainReading):
    """One connection. `bind` gives the class its engine and limits."""

    max_bytes: ClassVar[int]
    hot_route: ClassVar[bool] = True
    extra_routes: ClassVar[Mapping[bytes, ExchangeFactory]] = {}
    """Hot routes of other modules, by URL prefix."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._known_authorization: bytes | None = b""  # the header that `caller` was found by
        self._known_version = -1  # the version of the keys when `caller` was looked up
        self._known_host: bytes | None = None  # the host that was accepted last

    @classmethod
    def bind(
        cls,
        authenticator: Authenticator,
        bulk_decoder: bulk.BulkDecoder,
        extra_routes: Mapping[bytes, ExchangeFactory] | None = None,
        mover: ConnectionMover | None = None,
    ) -> type[HotProtocol]:
        """The class for one server."""
        own = {"authenticator": authenticator, "bulk_decoder": bulk_decoder, "limits": bulk_decoder.limits}
        own |= {"extra_routes": extra_routes or {}}
        settings = authenticator.settings
        own |= {"max_bytes": settings.body_bytes, "hot_route": settings.hot_route}
        own |= {"logs_requests": settings.access_log}
        inbox = Inbox(authenticator.engine, bulk_decoder.limits.chunk.observations, mover)
        own |= {"inbox": inbox, "mover": mover}
        return type("BoundHotProtocol", (cls,), own)

    # Coming in: the parser calls these.

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        exchange = self._hot_exchange()
        if exchange is None:
            self._exchange = None
            self._leave_to_router()
        else:
            self._expect(exchange)

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

    def _is_plain(self) -> bool:  # noqa: C901  (one pass over the headers of every hot request)
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
            elif name in TYPES:
                if CSV in value.lower():
                    return False
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
