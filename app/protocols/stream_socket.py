"""`WS /sessions/{id}/stream` and `WS /stream`: chunks and answers over a socket, many in flight.

Messages go to the inbox, which submits what has come in on all sockets together. What is unusual is processed
by its socket, a job each. An answer leaves as soon as the engine has it: in order for one session, in any
order between sessions.

Nothing is buffered without bound. A socket is read no further while `in_flight` of its messages wait, or
while its client does not read. On shutdown the answers that are owed are sent, then a close with 1001.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from app.access.callers import Caller
from app.codec import answers, frames
from app.codec.frames import Message
from app.codec.limits import Limits
from app.codec.problems import problem
from app.errors import CarryoverError, OverLimit, StepFailed
from app.jobs.answers import ChunkAnswer, SessionView
from app.jobs.jobs import Advance, Client, Inspect, Job, Refuse, Reply, Reset
from app.protocols.caller_socket import CallerSocket, close_code, has_reserved_bits
from app.protocols.fragments import BadFragment, MessageAssembler
from app.protocols.message_inbox import MessageInbox
from app.protocols.reading import PARSE_BYTES, FairReader

BINARY = WSMsgType.BINARY
WHOLE = (WSMsgType.TEXT, BINARY)  # kinds of a message in one frame
HELD_FRAMES = 16  # answers written together at most, while more of the same socket are under way
HELD_SECONDS = 0.005  # that the first of them waits at most


class StreamSocket(CallerSocket):
    """One socket of chunks.

    Parameters
    ----------
    session : that the path names; None on `/stream`, where each message names its own
    caller : who opened it
    in_flight : messages that may wait for an answer before the socket is read no further
    max_bytes : of one message
    connections : uvicorn's; on shutdown it waits until they have left the set
    inbox : takes the messages of all sockets
    parse : calls back with the frames that bytes hold
    """

    piece_bytes = PARSE_BYTES

    def __init__(
        self,
        session: str | None,
        caller: Caller,
        limits: Limits,
        in_flight: int,
        max_bytes: int,
        connections: set[Any],
        inbox: MessageInbox,
        parse: Callable[[bytes], None],
    ) -> None:
        super().__init__(caller, connections)
        self.session = session
        self.limits = limits
        self.in_flight = in_flight
        self.waiting = 0
        self.closing = False  # no more messages are taken
        self.inbox = inbox
        self.parse = parse
        self.reader = FairReader(self, caller.usage.share)
        self._client = Client()
        self._close_code: WSCloseCode | None = None  # of the client's close, while answers are owed
        self._position: int | None = None  # of the last answer
        self._assembler = MessageAssembler(max_bytes)
        self._held: list[bytes] = []  # frames to be written together
        self._is_closed = False  # a close was sent
        self._is_traced = caller.engine.tracing is not None  # a job each has a span

    # picows calls these.

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Send where the session is, so that the client knows what to send first."""
        super().on_ws_connected(transport)
        if self.session is None:
            self._send(frames.encode_hello(None, None, None, _client_limits(self)))
            return
        self._count_in()
        self._submit(Inspect(self.session, self._greet))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        """A frame has come in."""
        kind = frame.msg_type
        if self.closing:
            return
        if has_reserved_bits(frame):
            self._close_for_reserved_bits()
        elif frame.fin and kind in WHOLE and self._assembler.is_empty:
            self._receive(frame.get_payload_as_bytes(), binary=kind == BINARY)
        elif kind == WSMsgType.CLOSE:
            self.closing = True
            self._close_code = close_code(frame)
            self._close_if_done()
        elif kind in WHOLE or kind == WSMsgType.CONTINUATION:
            self._receive_fragment(frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The client has gone: its answers have nowhere to go."""
        super().on_ws_disconnected(transport)
        self._client.left = True
        self.closing = True
        self.reader.take_unparsed()

    def shutdown(self) -> None:
        """Take no more messages; close with 1001 once the answers that are owed have left (uvicorn)."""
        self.closing = True
        self._close_if_done()

    # Messages and answers.

    def _receive_fragment(self, frame: WSFrame) -> None:
        try:
            message = self._assembler.add(frame)
        except BadFragment as error:
            self._close(error.code, error.reason)
            return
        if message is not None:
            self._receive(message[0], binary=message[1] == BINARY)

    def _receive(self, data: bytes, *, binary: bool) -> None:
        self._count_in()
        if self._is_traced:
            self.process(data, binary=binary)
        else:
            self.inbox.put(self, data, binary=binary)

    def process(self, data: bytes, *, binary: bool) -> None:
        """Submit a message as a job of its own, or refuse it. It is dropped if the socket was closed."""
        if self._is_closed:
            self._count_out()
            return
        self.caller.engine.metrics.messages += 1
        if not binary and not is_utf8(data):
            self._close(WSCloseCode.INVALID_TEXT, "a text message is UTF-8")
            self._count_out()
            return
        try:
            message = (frames.decode_binary if binary else frames.decode_text)(
                data, self.session, self.limits
            )
        except CarryoverError as error:
            if self.session is None:
                self._refuse(error, None)  # of no session, so in no order
                self._count_out()
                return
            message = Message(self.session, None, None, None)
            self._submit(Refuse(self.session, error, partial(self.answer, message)))
            return
        self._submit(_job(message, partial(self.answer, message), self._client))

    def _submit(self, job: Job) -> None:
        try:
            self.caller.submit(job)
        except OverLimit as error:
            self._refuse_in_order(job, error)
        except CarryoverError as error:
            job.reply(error)

    def _refuse_in_order(self, job: Job, error: OverLimit) -> None:
        """Answer behind what the session is still owed: a refusal, too, keeps the order of a stream."""
        self.reader.throttle(error.retry_after_seconds)
        try:
            self.caller.engine.submit(Refuse(job.sessions[0], error, job.reply))
        except CarryoverError:
            job.reply(error)

    def answer(self, message: Message, outcome: Any) -> None:
        """Answer a message with the engine's outcome."""
        if isinstance(outcome, ChunkAnswer):
            self._position = outcome.position
            self._send(frames.encode_answer(outcome, message), text=not message.binary)
        elif isinstance(outcome, SessionView):
            self._send(frames.add_tag(orjson.dumps(answers.encode_session(outcome)), message.tag))
        else:
            self._refuse(outcome, message)
        self._count_out()

    def send_answer(self, frame: bytes, position: int) -> None:
        """Send the frame that answers a chunk; `position` is that of its session."""
        self._position = position
        self._send_frame(frame)
        self._count_out()

    def _refuse(self, outcome: Any, message: Message | None) -> None:
        error = outcome if isinstance(outcome, CarryoverError) else StepFailed("there is no answer")
        self.caller.engine.metrics.record_refusal(error)
        self._send(frames.encode_problem(problem(error)[1], message))

    def _greet(self, outcome: Any) -> None:
        """Send where the session of the path is: position None where it does not exist."""
        position = epoch = None
        if isinstance(outcome, SessionView):
            position, epoch = outcome.position, outcome.epoch
            self._position = position
        self._send(frames.encode_hello(self.session, position, epoch, _client_limits(self)))
        self._count_out()

    def _send(self, data: bytes, *, text: bool = True) -> None:
        self._send_frame(frames.encode_frame(data, text=text))

    def _send_frame(self, frame: bytes) -> None:
        """Send, together with what else this socket is owed at once: a write costs more than an answer."""
        self._held.append(frame)
        if self.waiting <= 1 or len(self._held) >= HELD_FRAMES:
            self._flush()
        elif len(self._held) == 1:
            asyncio.get_running_loop().call_later(HELD_SECONDS, self._flush)

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._is_closed:
            self._write(b"".join(held))

    def _count_in(self) -> None:
        self.waiting += 1
        if self.waiting == self.in_flight:
            self.pause_reading()

    def _count_out(self) -> None:
        self.waiting -= 1
        if self.waiting == self.in_flight - 1:
            self.resume_reading()
        if self.closing:
            self._close_if_done()

    # Reading pauses (`FairReader` calls these, too).

    @property
    def is_open(self) -> bool:
        """Whether what comes in is still parsed."""
        return self._transport is not None

    def resume_reading(self) -> None:
        """Read on, unless answers or the client must come first."""
        if self.waiting < self.in_flight and not self._write_paused and not self.reader.is_waiting:
            super().resume_reading()

    # Closing.

    def _close_if_done(self) -> None:
        if self.waiting:
            return
        if self._close_code is not None:
            self._close(self._close_code, "")
            return
        reason: dict[str, Any] = {"detail": "the server is stopping"}
        if self.session is not None:
            reason["position"] = self._position
        self._close(WSCloseCode.GOING_AWAY, orjson.dumps(reason).decode())

    def revoke(self) -> None:
        """Close: the key was removed. What was not submitted yet is not applied."""
        self.waiting -= self.inbox.discard(self)
        super().revoke()

    def crash(self) -> None:
        """Close: a message could not be processed, through a fault of the server."""
        self._close(WSCloseCode.INTERNAL_ERROR, "the server failed; see its log")

    def _close(self, code: WSCloseCode, reason: str) -> None:
        if self._is_closed:
            return
        self.closing = True
        self._flush()
        self._is_closed = True
        super()._close(code, reason)


def _job(message: Message, reply: Reply, client: Client) -> Job:
    chunk = message.chunk
    if chunk is None:
        return Reset(message.session, message.at, message.epoch, reply)
    return Advance(
        message.session, chunk.observations, chunk.at, chunk.epoch, chunk.horizon, chunk.model, reply,
        options=chunk.options, client=client,
    )  # fmt: skip


def _client_limits(socket: StreamSocket) -> dict[str, int]:
    """Within which a client can send again whatever is unanswered when the socket breaks."""
    settings = socket.caller.engine.settings
    return {
        "in_flight": socket.in_flight,
        "recent_chunks": settings.recent_chunks,
        "recent_bytes": settings.recent_bytes,
    }


def is_utf8(data: bytes) -> bool:
    """Whether this is UTF-8 (RFC 6455, section 8.1)."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
