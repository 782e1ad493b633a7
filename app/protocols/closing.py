"""Refusals and closes that come behind the answers that are owed, and that a client can read."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.access.callers import Authenticator
from app.codec.problems import PROBLEM_MEDIA_TYPE, problem_body
from app.protocols.lingering import LingeringClose

MAX_HEAD_BYTES = 65_536
"""Of the parts of a request that are not its body: the head, and the trailers of a chunked body."""
REFUSALS = {
    400: "the request is not valid HTTP",
    405: "CONNECT is for proxies, and this server is none",
    408: "the request did not come to its end in time: see CARRYOVER_REQUEST_SECONDS",
    431: f"the head of a request has at most {MAX_HEAD_BYTES} bytes",
    503: "the server is stopping, and the request had not come to its end",
}


class ClosingProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which knows the request that is coming in and what is owed before it."""

    authenticator: ClassVar[Authenticator]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._message_began: float | None = None  # of the request that is coming in; None: there is none
        self._running: RequestResponseCycle | None = None  # the ASGI request that was started last
        self._incoming: RequestResponseCycle | None = None  # the ASGI request whose body is coming in
        self._last_answer: bytes | None = None  # the refusal that ends the connection, while it waits
        self._is_refused = False  # nothing more is parsed
        self._is_stopping = False
        self._lingering: LingeringClose | None = None
        self._default_headers: object = None
        self._header_lines = b""  # of `_default_headers`

    # What a subclass adds.

    @property
    def _owes_answers(self) -> bool:
        """Whether requests that are no ASGI request wait for their answers."""
        return False

    def _drop_incoming(self) -> bool:
        """Forget the request that is coming in. Returns whether its answer has not begun to be written."""
        cycle, self._incoming = self._incoming, None
        self._message_began = None
        if cycle is None:
            return True
        unanswered = not cycle.response_started
        entry = next((entry for entry in self.pipeline if entry[0] is cycle), None)
        if entry is not None:
            self.pipeline.remove(entry)
        cycle.disconnected = cycle.response_complete = True
        cycle.message_event.set()
        if self.cycle is cycle and self._running is not None:
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running
        return unanswered

    def _forget_requests(self) -> None:
        """Drop everything that is owed: the connection is lost. The parent tells the newest request only."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _asgi_runs(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first; the parent's type denies it
        return cycle is not None and not cycle.response_complete

    # Refusing what is no request, and closing.

    def refuse(self, status: int, detail: str = "") -> None:
        """Answer the request that is coming in, behind what is owed, and close; parse nothing more."""
        if self._is_refused:
            return
        self._is_refused = True
        self._last_answer = b""
        if self._drop_incoming():
            self.authenticator.engine.metrics.requests["unknown", status] += 1
            self._last_answer = self._refusal(status, detail)
        self._finish()

    def _refusal(self, status: int, detail: str) -> bytes:
        phrase = HTTPStatus(status).phrase
        slug = phrase.lower().replace(" ", "-")
        body = orjson.dumps(problem_body(slug, phrase, status, detail or REFUSALS[status]))
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        return b"%b%b%bconnection: close\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            STATUS_LINE[status], self.standard_headers(), retry, PROBLEM_MEDIA_TYPE.encode(), len(body), body,
        )  # fmt: skip

    def _finish(self) -> None:
        """Write the refusal and close, once nothing else is owed."""
        if self._last_answer is None or self._owes_answers or self._asgi_runs() or self.pipeline:
            return
        answer, self._last_answer = self._last_answer, None
        self.transport.write(answer)
        self.close_gently()

    def close_gently(self) -> None:
        """Close; a client that may still be sending is read on for a while, so that it reads its answer."""
        if self._lingering is not None or self.transport.is_closing():
            return
        if self._message_began is None and not self._is_refused:
            self.transport.close()
            return
        self._unset_keepalive_if_required()
        self._lingering = LingeringClose(self.transport, self.connection_lost)
        if self._is_stopping:
            self._lingering.stop()

    def on_response_complete(self) -> None:
        if self._lingering is not None:
            return
        super().on_response_complete()
        self._finish()

    def shutdown(self) -> None:
        """Close once what was accepted is answered (uvicorn). A request still coming in was not accepted."""
        self._is_stopping = True
        if self._lingering is not None:
            self._lingering.stop()
        elif self._message_began is not None:
            self.refuse(503)
        elif self._last_answer is None:
            super().shutdown()

    def standard_headers(self) -> bytes:
        """The headers that uvicorn gives every answer; it replaces the list once a second."""
        if self._default_headers is not self.server_state.default_headers:
            self._default_headers = self.server_state.default_headers
            self._header_lines = b"".join(
                name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers
            )
        return self._header_lines


class RoutedTransport:
    """What an ASGI request writes to: its connection's transport, closed as its connection closes."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: ClosingProtocol) -> None:
        self.close = connection.close_gently
        self.is_closing = connection.transport.is_closing
        self.write = connection.transport.write
