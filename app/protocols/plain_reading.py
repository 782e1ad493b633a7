"""Plain requests: what comes in behind an ordinary chunk goes to the inbox, unparsed (see `inbox`)."""

from __future__ import annotations

import asyncio
import logging
import re
from enum import Enum
from typing import Any, ClassVar

from app.access.callers import Caller
from app.codec import bulk
from app.codec.limits import SESSION_ID, SMALL_BODY_BYTES
from app.codec.plain_requests import Head
from app.protocols.exchange import ChunkExchange
from app.protocols.inbox import Inbox
from app.protocols.ordered_answers import OrderedAnswers
from app.workers.moving import ConnectionMover

log = logging.getLogger("carryover.api")

MAX_MISSES = 16
"""After so many requests in a row that were not plain, a connection's requests are no longer tried."""

PLAIN_SESSION = re.compile(rb"POST /sessions/(%b)/observations " % SESSION_ID.pattern.encode())


class Plain(Enum):
    """How a connection reads what comes in next."""

    NO = "by its parser"
    NEXT = "what comes in next goes to the inbox"
    IN_INBOX = "it is in the inbox"
    AWAITED = "it was a plain request, which waits for its answer"


NO, NEXT, IN_INBOX, AWAITED = Plain  # a member is found ten times as fast without its class


class PlainReading(OrderedAnswers):
    """One connection, between its parser and the inbox."""

    inbox: ClassVar[Inbox]
    mover: ClassVar[ConnectionMover | None] = None
    bulk_decoder: ClassVar[bulk.BulkDecoder]
    limits: ClassVar[bulk.BulkLimits]
    logs_requests: ClassVar[bool] = False
    caller: Caller  # of the request that is coming in
    request_id: bytes

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plain = NO
        self.head: Head  # of the last request, where `_has_head`
        self._has_head = False  # the last piece that was parsed was a whole ordinary chunk, and nothing else
        self._misses = 0  # pieces in a row that were not plain
        self._awaited: ChunkExchange | None = None  # of a plain request that is no longer alone
        self.first_data = b""  # what had come in when this worker took the connection of another one
        self.moves = 0  # between workers
        self._owner: int | None = None  # another worker, whose sessions the last requests were for
        self._requests_elsewhere = 0  # so many

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.first_data and self.is_open:
            self.data_received(self.first_data)

    def data_received(self, data: bytes) -> None:
        if self._plain is NEXT:
            if self._owner is not None and self._move(data):
                return
            self._plain = IN_INBOX
            self._last_heard = self.loop.time()
            pieces = self.inbox.pieces
            if pieces:  # nearly always where there are many connections, so it must cost little
                pieces[self] = data
            else:
                self.inbox.put_first(self, data)
        else:
            if self._plain is not NO:
                data = self._end_plain() + data
            super().data_received(data)

    def parse_piece(self, data: bytes, *, plain: bool) -> None:
        """Parse what was in the inbox: it is not plain, or could not be submitted with the others.

        It is called from the engine's task, which must not end because of one connection.
        """
        self._plain = NO
        self._misses += not plain
        try:
            super().data_received(data)
        except Exception:
            log.exception("a connection failed and is closed; the others go on")
            self.transport.abort()

    def await_answer(self) -> None:
        """Note that a plain request was submitted, unless it is answered already."""
        if self._plain is IN_INBOX:
            self._plain = AWAITED

    def write_plain(self, response: bytes) -> None:
        """Write the response to the plain request."""
        if self._plain is IN_INBOX or self._plain is AWAITED:
            self._plain = NEXT
            self._misses = 0
            self.transport.write(response)
        elif self._awaited is not None:
            exchange, self._awaited = self._awaited, None
            exchange.set_plain_response(response)
            self.write_answers()

    def plain_exchange(self, session: str, *, flat: bool) -> ChunkExchange:
        """The exchange of the plain request, which can be answered in any way."""
        if self._plain is not NO:
            self._plain = AWAITED
            self._end_plain()
        exchange, self._awaited = self._awaited or ChunkExchange(self, session), None
        exchange.session, exchange.flat = session, flat
        return exchange

    def note_owner(self, owner: int) -> None:
        """Note that a plain request was for a session of another worker."""
        if owner != self._owner:
            self._owner, self._requests_elsewhere = owner, 0
        self._requests_elsewhere += 1

    def _move(self, data: bytes) -> bool:
        """Give the connection to the worker whose sessions it is for. Returns whether that was done."""
        mover = self.mover
        match = PLAIN_SESSION.match(data)
        if (
            mover is None
            or match is None
            or self._requests_elsewhere >> self.moves == 0
            or mover.owner(self.caller.internal_name(match[1].decode("ascii"))) != self._owner
            or self.transport.get_write_buffer_size()
            or self.transport.get_extra_info("sslcontext") is not None
            or self._is_stopping
        ):
            return False
        file = self.transport.get_extra_info("socket").fileno()
        if not mover.send(self._owner, file, data, self.moves + 1):
            return False
        self._plain = NO
        self.authenticator.engine.metrics.connections_moved += 1
        self.transport.abort()  # closes this descriptor; the other worker has one of its own
        return True

    def _end_plain(self) -> bytes:
        """Leave what is plain to the ordinary ways. Returns what must be parsed before anything else."""
        state, self._plain = self._plain, NO
        if state is IN_INBOX:
            return self.inbox.pieces.pop(self)
        if state is AWAITED:
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

    def _rest(self) -> None:
        """Have what comes in next go to the inbox, if nothing is owed and nothing is coming in."""
        if (
            self._has_head
            and self._plain is NO
            and not self._exchanges
            and not (self._asgi_runs() or self.reader.is_waiting or self._is_stopping or self._is_refused)
        ):
            self._plain = NEXT

    def shutdown(self) -> None:
        """Close once what was accepted is answered."""
        if data := self._end_plain():
            self.parse(data)
        super().shutdown()

    @property
    def _owes_answers(self) -> bool:
        return super()._owes_answers or self._plain in (IN_INBOX, AWAITED)

    def _forget_requests(self) -> None:
        # What came in whole before the client hung up is applied, as if it had been parsed at once.
        if (data := self._end_plain()) and not self.caller.usage.share.full:
            self.parse(data)
        self._awaited = None
        super()._forget_requests()
