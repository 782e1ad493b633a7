"""`WS /sessions/{id}/stream` and `WS /stream`: chunks and answers over a socket, many in flight.

picows speaks the protocol (handshake, frames, masks, ping and close); this module joins it to uvicorn,
which hands over a connection that asks for an upgrade, and to the engine. A message is a job, and its
answer leaves as soon as the engine has it: in order for one session, in any order between sessions.

Nothing is buffered without bound. A socket is read no further while `in_flight` of its messages wait, or
while its client does not read. On shutdown the answers that are owed are sent, then a close with 1001.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import orjson
from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]
from uvicorn.config import Config
from uvicorn.server import ServerState

from app import frames, wire
from app.answers import Advanced, SessionView
from app.api.problems import MEDIA_TYPE, problem
from app.engine import Engine
from app.errors import CarryoverError, StepFailed, Unprocessable
from app.frames import Message
from app.jobs import Advance, Inspect, Job, Refuse, Reset
from app.tenancy import Caller
from app.watching import Watching

log_frames = logging.getLogger("carryover.sockets.protocol")
log_frames.setLevel(logging.WARNING)  # picows tells of every connection

PATH = re.compile(r"/sessions/([^/]+)/(stream|watch)|/stream")
BINARY = WSMsgType.BINARY
WHOLE = (WSMsgType.TEXT, BINARY)  # kinds of a message in one frame
HELD_FRAMES = 16  # answers written together at most, while more of the same socket are under way
HELD_SECONDS = 0.005  # that the first of them waits at most
PING_SECONDS = 20.0
HANDSHAKE_SECONDS = 5.0


class Conversation(WSListener):
    """One socket.

    Parameters
    ----------
    session : whose stream the path names; None on `/stream`, where each message names its own
    in_flight : messages that may wait for an answer before the socket is read no further
    most_bytes : of one message
    """

    def __init__(
        self,
        session: str | None,
        engine: Engine,
        limits: wire.Limits,
        in_flight: int,
        most_bytes: int,
        connections: set[Any],
    ) -> None:
        self.session = session
        self.engine = engine
        self.limits = limits
        self.in_flight = in_flight
        self.most_bytes = most_bytes
        self.connections = connections  # uvicorn's: at shutdown it waits for those in it
        self.waiting = 0
        self.closing = False
        self._position: int | None = None  # that the client was told last
        self._parts: list[bytes] = []
        self._kind = WSMsgType.TEXT
        self._held: list[bytes] = []  # frames to be written together
        self._write_paused = False
        self._transport: WSTransport | None = None

    # picows calls these.

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Tell the client where its session is, so that it knows what to send first."""
        self._transport = transport
        self.connections.add(self)
        if self.session is None:
            self._send(frames.hello(None, None, None, self.in_flight))
            return
        self._submit(Inspect(self.session, self._greet))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame has come in; fragments are put together here."""
        kind = frame.msg_type
        if frame.fin and kind in WHOLE and not self._parts and not self.closing:
            self._message(frame.get_payload_as_bytes(), kind == BINARY)
            return
        if kind == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        if self.closing or not (kind in WHOLE or kind == WSMsgType.CONTINUATION):
            return
        if (kind == WSMsgType.CONTINUATION) != bool(self._parts):
            self._close(WSCloseCode.PROTOCOL_ERROR, "a fragment out of place")
            return
        if kind != WSMsgType.CONTINUATION:
            self._kind = kind
        self._parts.append(frame.get_payload_as_bytes())
        if sum(map(len, self._parts)) > self.most_bytes:
            self._close(WSCloseCode.MESSAGE_TOO_BIG, f"a message has at most {self.most_bytes} bytes")
        elif frame.fin:
            parts, self._parts = self._parts, []
            self._message(b"".join(parts), self._kind == BINARY)

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        """The client has gone; what it sent is done, the answers have nowhere to go."""
        self.closing = True
        self._transport = None
        self.connections.discard(self)

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        self._write_paused = True
        self._read(on=False)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_paused = False
        self._read(on=self.waiting < self.in_flight)

    def shutdown(self) -> None:
        """Take no more messages; close with 1001 once the answers that are owed have left (uvicorn)."""
        self.closing = True
        self._leave_if_done()

    # Messages and answers.

    def _message(self, data: bytes, binary: bool) -> None:
        try:
            message = (frames.binary if binary else frames.text)(data, self.session, self.limits)
        except CarryoverError as error:
            if self.session is None:
                self._send(_problem(error, None))  # nobody's turn can be waited for
                return
            message = Message(self.session, None, None, None)
            self._submit(Refuse(self.session, error, partial(self._answer, message)))
            return
        self._submit(self._job(message))

    def _submit(self, job: Job) -> None:
        self._began()
        try:
            self.engine.submit(job)
        except CarryoverError as error:
            job.reply(error)

    def _job(self, message: Message) -> Job:
        reply = partial(self._answer, message)
        chunk = message.chunk
        if chunk is None:
            return Reset(message.session, message.at, message.epoch, reply)
        return Advance(
            message.session, chunk.observations, chunk.at, chunk.epoch, chunk.horizon, chunk.model, reply,
            extras=chunk.extras,
        )  # fmt: skip

    def _answer(self, message: Message, outcome: Any) -> None:
        if isinstance(outcome, Advanced):
            self._position = outcome.position
            self._send(frames.answered(outcome, message), text=not message.binary)
        elif isinstance(outcome, SessionView):
            self._send(frames.tagged(orjson.dumps(wire.viewed(outcome)), message.tag))
        else:
            self._send(_problem(outcome, message))
        self._ended()

    def _greet(self, outcome: Any) -> None:
        """The engine's answer to where the session of the path is; one that is not there is at None."""
        position = epoch = None
        if isinstance(outcome, SessionView):
            position, epoch = outcome.position, outcome.epoch
            self._position = position
        self._send(frames.hello(self.session, position, epoch, self.in_flight))
        self._ended()

    def _send(self, data: bytes, *, text: bool = True) -> None:
        """Send, together with what else this socket is owed at once: a write costs more than an answer."""
        self._held.append(frames.framed(data, text=text))
        if self.waiting <= 1 or len(self._held) >= HELD_FRAMES:
            self._flush()
        elif len(self._held) == 1:
            asyncio.get_running_loop().call_later(HELD_SECONDS, self._flush)

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and self._transport is not None:
            self._transport.underlying_transport.write(b"".join(held))

    def _began(self) -> None:
        self.waiting += 1
        if self.waiting == self.in_flight:
            self._read(on=False)

    def _ended(self) -> None:
        self.waiting -= 1
        if self.waiting == self.in_flight - 1 and not self._write_paused:
            self._read(on=True)
        if self.closing:
            self._leave_if_done()

    def _read(self, *, on: bool) -> None:
        if self._transport is None:
            return
        transport = self._transport.underlying_transport
        if on and not transport.is_reading():
            transport.resume_reading()
        elif not on and transport.is_reading():
            transport.pause_reading()

    def _leave_if_done(self) -> None:
        if self.waiting:
            return
        told = {"detail": "the server is stopping"}
        where = {} if self.session is None else {"position": self._position}
        self._close(WSCloseCode.GOING_AWAY, orjson.dumps(told | where).decode())

    def _close(self, code: WSCloseCode, why: str) -> None:
        self.closing = True
        self._flush()
        if self._transport is not None:
            self._transport.send_close(code, why.encode())
            self._transport.disconnect()


class Upgrade(asyncio.Protocol):
    """A connection that asked uvicorn for an upgrade: its bytes go to picows.

    picows reads into a buffer of its own, which a transport that is already reading cannot be told of.
    """

    def __init__(self, listener: Callable[[WSUpgradeRequest], Any], most_bytes: int) -> None:
        self._protocol = WSProtocol(
            None, None, False, listener, log_frames, True, HANDSHAKE_SECONDS, True,
            PING_SECONDS, PING_SECONDS, WSAutoPingStrategy.PING_WHEN_IDLE, True, most_bytes, None, 16_384,
        )  # fmt: skip
        self.connection_lost = self._protocol.connection_lost  # type: ignore[method-assign]
        self.connection_made = self._protocol.connection_made  # type: ignore[method-assign]
        self.eof_received = self._protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = self._protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = self._protocol.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        """Copy what came into picows' buffer."""
        rest = memoryview(data)
        while rest:
            room = self._protocol.get_buffer(len(rest))
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self._protocol.buffer_updated(count)
            rest = rest[count:]


def upgrades(
    engine: Engine, limits: wire.Limits, in_flight: int, most_bytes: int
) -> Callable[[Config, ServerState, dict[str, Any]], Upgrade]:
    """What uvicorn takes as its `ws` class."""

    def upgrade(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> Upgrade:
        del config, app_state

        def listener(request: WSUpgradeRequest) -> Any:
            path = unquote(request.path.decode("ascii", "replace")).partition("?")[0]
            match = PATH.fullmatch(path)
            if match is None:
                return _not_found(path)
            try:
                session = None if match[1] is None else wire.session_id(match[1])
            except Unprocessable as error:
                return _refusal(*problem(error)[:2])
            if session is not None and match[2] == "watch":
                return Watching(session, Caller(engine, engine.settings), server_state.connections)
            return Conversation(session, engine, limits, in_flight, most_bytes, server_state.connections)

        return Upgrade(listener, most_bytes)

    return upgrade


def _not_found(path: str) -> WSUpgradeResponseWithListener:
    told = {"type": "urn:carryover:not-found", "title": "Not Found", "status": 404}
    return _refusal(404, told | {"detail": f"there is no socket at {path[:200]!r}"})


def _refusal(status: int, body: dict[str, Any]) -> WSUpgradeResponseWithListener:
    response = WSUpgradeResponse.create_error_response(
        HTTPStatus(status), orjson.dumps(body), {"Content-Type": MEDIA_TYPE}
    )
    return WSUpgradeResponseWithListener(response, None)


def _problem(error: Any, message: Message | None) -> bytes:
    told = error if isinstance(error, CarryoverError) else StepFailed("there is no answer")
    return frames.refused(problem(told)[1], message)
