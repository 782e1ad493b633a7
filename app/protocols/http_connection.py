"""One HTTP connection with bounds on time, size and number: uvicorn's protocol, less what it leaves open.

- A request comes to its end within `request_seconds`, its head within `MAX_HEAD_BYTES`.
- A client that does not read its answers is not read either, and is cut off after `request_seconds`.
- An idle connection is closed after `keep_alive_seconds`; there are at most `connections` of them.
- While several tenants call, each is read no further than its share has room for (`FairReader`).
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.access.callers import Authenticator
from app.protocols.reading import PARSE_BYTES, FairReader

MAX_HEAD_BYTES = 65_536
"""Of the parts of a request that are not its body: the head, and the trailers of a chunked body."""
BODY_PARSE_BYTES = 16_384
"""Bytes parsed at once, while several tenants call, of a body that goes to the router."""
ABORT_SECONDS = 5.0
"""After which a connection that was closed is cut off, though its client has not read all of it."""


class HttpConnection(HttpToolsProtocol):
    """One connection, bounded. A subclass says which of its answers are owed outside of ASGI."""

    authenticator: ClassVar[Authenticator]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.reader = FairReader(self)
        self._last_heard = 0.0
        self._message_began: float | None = None  # None between two messages
        self._head_bytes = 0  # of the message that is coming in, since its body was last heard
        self._unread_since: float | None = None  # since when answers lie unread in the transport

    # What a subclass adds.

    @property
    def _owes_answers(self) -> bool:
        """Whether requests that are no ASGI request wait for their answers."""
        return False

    @property
    def _is_incoming_only(self) -> bool:
        """Whether nothing is owed but the answer to the request that is still coming in."""
        return not self._owes_answers

    def _forget_requests(self) -> None:
        """Drop what is owed: the connection is closed, or about to be."""

    # Coming in.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.authenticator.settings.connections:
            self.authenticator.engine.metrics.refusals["connections"] += 1
            transport.abort()
            return
        self._last_heard = self.loop.time()
        self._watch_idleness(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_requests()
        self.reader.take_unparsed()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        # The parent's, less a timer cancelled and armed again for every request: see _watch_idleness.
        self._last_heard = self.loop.time()
        reader = self.reader
        if reader.unparsed or reader.in_line or self.authenticator.engine.fair_share.contended:
            reader.receive(data)
        else:
            self.parse(data)

    def parse(self, data: bytes) -> None:
        """Feed the parser, which calls the `on_` methods."""
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._unset_keepalive_if_required()
                self.handle_websocket_upgrade()
                self.flow.resume_reading()  # whatever had paused it: the socket pauses for itself
            else:
                self._unsupported_upgrade_warning()
        if self._head_bytes > MAX_HEAD_BYTES and self._message_began is not None:
            self._hang_up(431)

    @property
    def is_open(self) -> bool:
        """Whether what comes in is still this connection's to parse."""
        return self in self.connections and not self.transport.is_closing()

    @property
    def piece_bytes(self) -> int:
        """Bytes to parse at once while several tenants call."""
        return BODY_PARSE_BYTES if self._asgi_runs() else PARSE_BYTES

    def on_message_begin(self) -> None:
        self._message_began = self._last_heard
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._message_began = None
        self._head_bytes = 0
        super().on_message_complete()

    def _asgi_runs(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first; the parent's type denies it
        return cycle is not None and not cycle.response_complete

    # Reading pauses.

    def pause_reading(self) -> None:
        """Read no further from the transport."""
        self.flow.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless something else must come first."""
        if not (
            self.flow.write_paused or self.reader.is_waiting or self.pipeline or self._body_is_far_ahead()
        ):
            self.flow.resume_reading()

    def _body_is_far_ahead(self) -> bool:
        """Whether the parent paused because the ASGI request has not read its body."""
        return self._asgi_runs() and len(self.cycle.body) > HIGH_WATER_LIMIT

    def throttle(self, seconds: float) -> None:
        """Read no further for a while: the caller's key is over a quota."""
        self.reader.throttle(seconds)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()
        self.resume_reading()

    # Idleness: one timer a connection, armed again only when it fires.

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    @property
    def _patience(self) -> float:
        return min(self.timeout_keep_alive, self.authenticator.settings.request_seconds)

    def timeout_keep_alive_handler(self) -> None:
        now, patience = self.loop.time(), self.authenticator.settings.request_seconds
        if self._unread_since is not None and now - self._unread_since >= patience:
            self.transport.abort()  # a close would wait for the client to read
        elif self._message_began is not None and now - self._message_began >= patience:
            self._hang_up(408)
        elif now - self._last_heard >= self.timeout_keep_alive and not self._is_busy():
            super().timeout_keep_alive_handler()
            self.loop.call_later(ABORT_SECONDS, self.transport.abort)
        else:
            self._watch_idleness(self._patience)

    def _is_busy(self) -> bool:
        return self._owes_answers or self.reader.in_line or self._asgi_runs()

    def _hang_up(self, status: int) -> None:
        """Close on a request that does not come to its end, with this status if nothing else is owed."""
        self.authenticator.engine.metrics.requests["unknown", status] += 1
        if not self._asgi_runs() and self._is_incoming_only:
            self.transport.write(STATUS_LINE[status] + b"connection: close\r\ncontent-length: 0\r\n\r\n")
        self._forget_requests()
        self._message_began = None
        self.transport.close()
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)
