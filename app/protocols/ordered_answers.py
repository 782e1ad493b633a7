"""Answers in the order of their requests, on a connection that answers some by itself and some through ASGI.

- Hot requests wait in `_exchanges`. If a hot request arrives while an ASGI request runs, the parent queues
  and answers it. If an ASGI request arrives while hot requests wait, it is held until they are answered.
- Buffers are bounded: reading pauses while `MAX_PIPELINED` answers wait, or while the client does not read
  its answers. A body is refused as soon as it exceeds the limit.
- If a client hangs up, its answer is dropped, and the other clients notice nothing.
- On shutdown what was accepted is answered, with `connection: close`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.codec.problems import body_too_large_error
from app.errors import CarryoverError
from app.protocols.exchange import Exchange
from app.protocols.http_connection import HttpConnection

MAX_PIPELINED = 32
"""When so many requests of one connection wait for answers, the server stops reading from it."""


class OrderedAnswers(HttpConnection):
    """One connection. A subclass says which requests are hot, and has their answers expected."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._exchanges: deque[Exchange] = deque()  # hot requests not answered yet, in order
        self._exchange: Exchange | None = None  # the one whose body is arriving, the last in `_exchanges`
        self._held: tuple[RequestResponseCycle, Any] | None = None  # an ASGI request waiting for them

    def _rest(self) -> None:
        """Nothing is owed, and the connection is read on."""

    def _expect(self, exchange: Exchange) -> None:
        """Take the body that comes in next for this exchange, and its answer in order."""
        self._head_is_complete = True
        self._exchange = exchange
        self._exchanges.append(exchange)
        exchange.keep_alive = self.parser.should_keep_alive()
        if len(self._exchanges) >= MAX_PIPELINED:
            self.flow.pause_reading()

    # Coming in: the parser calls these.

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

    def shutdown(self) -> None:
        """Close once what was accepted is answered; a request that is still coming in was not accepted."""
        if self._exchanges and self._message_began is None and not self._asgi_runs():
            self._exchanges[-1].keep_alive = False
        else:
            super().shutdown()

    @property
    def _owes_answers(self) -> bool:
        return bool(self._exchanges)

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
        super()._forget_requests()
        self._exchanges.clear()
        self._exchange = self._held = None
