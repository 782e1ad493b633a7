"""One HTTP connection with bounds on time, size and number: uvicorn's protocol, less what it leaves open.

- A request comes to its end within `request_seconds`, its head within `MAX_HEAD_BYTES`.
- A client that does not read its answers is not read either, and is cut off after `request_seconds`.
- An idle connection is closed after `keep_alive_seconds`.
- There are at most `connections`: one too many is answered 503, and many too many are cut off.
- While several tenants call, each is read no further than its share has room for (`FairReader`).
- An offer of an upgrade that is no WebSocket's is ignored: the request is an ordinary one, with its body.
- What is no request is refused behind the answers that are owed; then nothing more is parsed.
- A client that still sends when the connection is closed can read its answer (`LingeringClose`).
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from app.jobs.jobs import Client
from app.protocols.closing import MAX_HEAD_BYTES, REFUSALS, RoutedTransport
from app.protocols.heads import BadHead, check_head, head_without_upgrade, is_websocket_handshake
from app.protocols.reading import PARSE_BYTES, FairReader
from app.protocols.timed_connection import TimedConnection

BODY_PARSE_BYTES = 16_384
"""Bytes parsed at once, while several tenants call, of a body that goes to the router."""


class HttpConnection(TimedConnection):
    """One connection, bounded."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.reader = FairReader(self)
        self.waiting_client = Client()  # for the jobs of this connection
        self._is_counted = False
        self._is_excess = False  # one too many, that is being answered so
        self._messages = 0  # that have begun to come in
        self._head_bytes = 0  # of the message that is coming in, since its body was last heard
        self._read_bytes = 0  # that are being parsed
        self._first_read_bytes = 0  # of the read in which the message began
        self._head_is_complete = False
        self._head_error = ""  # why a callback of the parser refused the head
        self._keeps_alive_with_body = False  # the client waits for 100 Continue

    # Coming in.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_counted = self.authenticator.connections.acquire()
        if not self._is_counted:
            self._refuse_connection()
            return
        self._last_heard = self.loop.time()
        self._watch_idleness(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting_client.left = True
        if self._is_counted:
            self._is_counted = False
            self.authenticator.connections.release()
        if self._is_excess:
            self._is_excess = False
            self.authenticator.connections.end_refusal()
        self._forget_requests()
        self._last_answer = None
        self.reader.take_unparsed()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def _refuse_connection(self) -> None:
        """Answer one connection too many; the server does not wait for its request."""
        self.authenticator.engine.metrics.refusals["connections"] += 1
        self._is_excess = self.authenticator.connections.begin_refusal()
        if not self._is_excess:
            self.transport.abort()
            return
        self.refuse(503, "the server has as many connections as CARRYOVER_CONNECTIONS allows")
        if self._lingering is not None:
            self._lingering.stop()  # the client has a second to read the answer

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
        if self._is_refused:
            return
        self._read_bytes = len(data)
        self._head_bytes += self._read_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as paused:
            self._parse_behind_upgrade(memoryview(data)[paused.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_syntax(error)
        if self._head_bytes > MAX_HEAD_BYTES and self._message_began is not None:
            self.refuse(431)

    @property
    def is_open(self) -> bool:
        """Whether what comes in is still this connection's to parse."""
        return (
            self in self.connections
            and self._lingering is None
            and not self._is_refused
            and not self.transport.is_closing()
        )

    @property
    def piece_bytes(self) -> int:
        """Bytes to parse at once while several tenants call."""
        return BODY_PARSE_BYTES if self._asgi_runs() else PARSE_BYTES

    def on_message_begin(self) -> None:
        self._message_began = self._last_heard
        self._messages += 1
        self._head_bytes = 0
        self._head_is_complete = False
        self._first_read_bytes = self._read_bytes
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_is_complete:  # a trailer is no header: it could name another key or host
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser skips the body and pauses: see _parse_behind_upgrade
        self._check_head()
        self._begin_scope()
        self._head_is_complete = True
        self.scope["carryover.client"] = self.waiting_client  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        self._incoming = cycle = self.cycle
        cycle.transport = RoutedTransport(self)  # type: ignore[assignment]
        # A client that is refused before 100 Continue may send its body or not: the server cannot know then
        # where its next request begins.
        self._keeps_alive_with_body = self.expect_100_continue and cycle.keep_alive
        if self._keeps_alive_with_body:
            cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self._keeps_alive_with_body:
            self._keeps_alive_with_body = False
            self.cycle.keep_alive = not self.cycle.response_started
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._message_began = self._incoming = None
        self._head_bytes = 0
        super().on_message_complete()
        if self.flow.read_paused:  # for its body; a connection that is not read is not seen to close
            self.resume_reading()

    def _head_is_too_long(self) -> bool:
        """Whether a head that is complete has too many bytes, though its body may have come with it."""
        if self._first_read_bytes + self._head_bytes <= MAX_HEAD_BYTES:
            return False  # nearly always
        return (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES
        )

    def _check_head(self) -> None:
        if self._head_is_too_long():
            self.refuse(431)
            raise BadHead(REFUSALS[431])
        try:
            check_head(self.headers, self.parser.get_http_version())
        except BadHead as error:
            self._head_error = str(error)
            raise

    def _begin_scope(self) -> None:
        """Make up for what `on_message_begin` leaves out, which a hot request does not need."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)

    # Upgrades. The parser pauses behind the head of a request that offers one, as if it had no body.

    def _parse_behind_upgrade(self, rest: memoryview) -> None:
        while True:
            try:
                if self.parser.get_method() == b"CONNECT":
                    self.refuse(405)
                    return
                self._check_head()
                if self._takes_upgrade():
                    self._hand_over(bytes(rest))
                    return
                self._parse_head_again()
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as paused:
                rest = rest[paused.args[0] :]
            except (BadHead, httptools.HttpParserError) as error:
                self._refuse_syntax(error)
                return

    def _takes_upgrade(self) -> bool:
        version = self.parser.get_http_version()
        return (
            is_websocket_handshake(self.parser.get_method(), version, self.headers)
            and self._should_upgrade_to_ws()
            and not self._owes_answers
            and not self._asgi_runs()
        )

    def _parse_head_again(self) -> None:
        """Parse the head of an ordinary request in place of the one that offered an upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = head_without_upgrade(method, self.url, version, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the parent
        self.parser.feed_data(head)

    def _hand_over(self, rest: bytes) -> None:
        """Become a WebSocket."""
        self._unset_keepalive_if_required()
        self._begin_scope()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self._message_began = None
        rest += self.reader.take_unparsed()
        self._is_counted = False  # by the socket from here on: `upgrade.UpgradedConnection` releases it
        self.handle_websocket_upgrade()
        self.flow.resume_reading()  # whatever had paused it: the socket pauses for itself
        if rest and not self.transport.is_closing():
            self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]

    def _refuse_syntax(self, error: Exception) -> None:
        detail, self._head_error = self._head_error, ""
        if not detail and not isinstance(error, httptools.HttpParserCallbackError):
            detail = f"{REFUSALS[400]}: {error}"
        self.refuse(400, detail)

    # Reading pauses.

    def pause_reading(self) -> None:
        """Read no further from the transport."""
        self.flow.pause_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.resume_reading()

    def resume_reading(self) -> None:
        """Resume reading, unless an ASGI request is held or too many answers wait."""
        if not (
            self.flow.write_paused or self.reader.is_waiting or self.pipeline or self._body_is_far_ahead()
        ):
            self.flow.resume_reading()

    def _body_is_far_ahead(self) -> bool:
        """Whether the parent paused because the ASGI request has not read the body that is coming in."""
        return self._incoming is not None and self._asgi_runs() and len(self.cycle.body) > HIGH_WATER_LIMIT

    def throttle(self, seconds: float) -> None:
        """Read no further for a while: the caller's key is over a quota."""
        self.reader.throttle(seconds)

    def _is_busy(self) -> bool:
        return self.reader.in_line or super()._is_busy()
