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
from random import uniform
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

from app.access.callers import Caller, Door
from app.api.errors import MEDIA_TYPE, problem
from app.api.middleware.guard import TENANT_HEADER, check_host, same_origin
from app.codec import chunks, frames
from app.codec.frames import Message
from app.errors import CarryoverError, Forbidden, OverLimit, StepFailed
from app.jobs.answers import Advanced, SessionView
from app.jobs.jobs import Advance, Inspect, Job, Refuse, Reset
from app.observability import logs
from app.protocols.watch_socket import Watching

log_frames = logging.getLogger(logs.FRAMES)

PATH = re.compile(r"/sessions/([^/]+)/(stream|watch)|/stream")
BINARY = WSMsgType.BINARY
WHOLE = (WSMsgType.TEXT, BINARY)  # kinds of a message in one frame
HELD_FRAMES = 16  # answers written together at most, while more of the same socket are under way
HELD_SECONDS = 0.005  # that the first of them waits at most
PIECE = 1024  # bytes parsed at once while several tenants call
PING_SECONDS = 20.0
HANDSHAKE_SECONDS = 5.0
CALM_SECONDS = 1.0  # for which a socket whose key is over its quota is read no further, about
PROTOCOL = "carryover"
BEARER = "carryover.bearer."  # a browser can send a key in no header of its own


class Conversation(WSListener):
    """One socket.

    Parameters
    ----------
    session : whose stream the path names; None on `/stream`, where each message names its own
    caller : who speaks
    in_flight : messages that may wait for an answer before the socket is read no further
    most_bytes : of one message
    parse : calls back with the frames that bytes hold
    """

    def __init__(
        self,
        session: str | None,
        caller: Caller,
        limits: chunks.Limits,
        in_flight: int,
        most_bytes: int,
        connections: set[Any],
        parse: Callable[[bytes], None],
    ) -> None:
        self.session = session
        self.caller = caller
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
        self._calming = False  # its key is over a quota
        self._in_line = False  # of its tenant's lane, to be read on
        self._parse = parse
        self.unparsed = b""  # came in beyond the tenant's share of the loop
        self._transport: WSTransport | None = None

    # picows calls these.

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Tell the client where its session is, so that it knows what to send first."""
        self._transport = transport
        self.connections.add(self)
        self.caller.use.opened(self)
        self.caller.engine.metrics.sockets_opened += 1
        if self.session is None:
            self._send(frames.hello(None, None, None, self._told_limits()))
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
        self.unparsed = b""
        self.connections.discard(self)
        self.caller.use.closed(self)

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        self._write_paused = True
        self._read(on=False)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_paused = False
        self._read_on()

    def shutdown(self) -> None:
        """Take no more messages; close with 1001 once the answers that are owed have left (uvicorn)."""
        self.closing = True
        self._leave_if_done()

    def revoked(self) -> None:
        """Close: the key is no longer good (the door)."""
        self._close(WSCloseCode.POLICY_VIOLATION, "the key is no longer good")

    # Messages and answers.

    def _message(self, data: bytes, binary: bool) -> None:
        self.caller.engine.metrics.messages += 1
        try:
            message = (frames.binary if binary else frames.text)(data, self.session, self.limits)
        except CarryoverError as error:
            if self.session is None:
                self._refuse(error, None)  # nobody's turn can be waited for
                return
            message = Message(self.session, None, None, None)
            self._submit(Refuse(self.session, error, partial(self._answer, message)))
            return
        self._submit(self._job(message))

    def _submit(self, job: Job) -> None:
        self._began()
        try:
            self.caller.submit(job)
        except OverLimit as error:
            self._refuse_in_turn(job, error)
        except CarryoverError as error:
            job.reply(error)

    def _refuse_in_turn(self, job: Job, error: OverLimit) -> None:
        """Answer behind what the session is still owed: a refusal, too, keeps the order of a stream."""
        self._calm(error.retry_after_seconds)
        try:
            self.caller.engine.submit(Refuse(job.sessions[0], error, job.reply))
        except CarryoverError:
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
            self._send(frames.tagged(orjson.dumps(chunks.viewed(outcome)), message.tag))
        else:
            self._refuse(outcome, message)
        self._ended()

    def _refuse(self, outcome: Any, message: Message | None) -> None:
        error = outcome if isinstance(outcome, CarryoverError) else StepFailed("there is no answer")
        self.caller.engine.metrics.refused(error)
        self._send(_problem(error, message))

    def _calm(self, seconds: float) -> None:
        """Read no further for so long: to read on, only to refuse, would cost the others."""
        if not self._calming:
            self._calming = True
            self._read(on=False)
            asyncio.get_running_loop().call_later(
                min(seconds, CALM_SECONDS) * uniform(0.5, 1.5), self._calmed
            )

    def _calmed(self) -> None:
        self._calming = False
        self.heard(b"")

    # Among several tenants no more of one is parsed than its lane has room for (`app.lanes`).

    def heard(self, data: bytes) -> None:
        """Parse as much as there is room for; the rest waits."""
        self.unparsed += data
        while self.unparsed and not self._waits():
            part, self.unparsed = self.unparsed[:PIECE], self.unparsed[PIECE:]
            self._parse(part)
        if not self._waits():
            self._read_on()

    def _waits(self) -> bool:
        """Whether nothing more should be parsed now; in its tenant's line if that is why."""
        lane = self.caller.use.lane
        if lane.full and not self._in_line:
            self._in_line = True
            lane.wait(self)
            self._read(on=False)
        return self._in_line or self._calming

    def go_on(self) -> None:
        """The tenant's lane has room again."""
        self._in_line = False
        if self._transport is not None:
            self.heard(b"")

    def _greet(self, outcome: Any) -> None:
        """The engine's answer to where the session of the path is; one that is not there is at None."""
        position = epoch = None
        if isinstance(outcome, SessionView):
            position, epoch = outcome.position, outcome.epoch
            self._position = position
        self._send(frames.hello(self.session, position, epoch, self._told_limits()))
        self._ended()

    def _told_limits(self) -> dict[str, int]:
        """What a client must not go beyond, if it wants to be able to send again whatever is unanswered."""
        settings = self.caller.engine.settings
        return {
            "in_flight": self.in_flight,
            "recent_chunks": settings.recent_chunks,
            "recent_bytes": settings.recent_bytes,
        }

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
        if self.waiting == self.in_flight - 1:
            self._read_on()
        if self.closing:
            self._leave_if_done()

    def _read_on(self) -> None:
        paused = self._write_paused or self._calming or self._in_line or self.unparsed
        if self.waiting < self.in_flight and not paused:
            self._read(on=True)

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
        self.speaks: Conversation | None = None
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
        """All of it at once, or, where several tenants call, as much as there is room for."""
        speaks = self.speaks
        if speaks is None or not (speaks.unparsed or speaks.caller.engine.lanes.shared):
            self.parse(data)
            return
        speaks.heard(data)

    def parse(self, data: bytes) -> None:
        """Copy what came into picows' buffer."""
        rest = memoryview(data)
        while rest:
            room = self._protocol.get_buffer(len(rest))
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self._protocol.buffer_updated(count)
            rest = rest[count:]


def upgrades(door: Door, limits: chunks.Limits) -> Callable[[Config, ServerState, dict[str, Any]], Upgrade]:
    """What uvicorn takes as its `ws` class."""

    settings = door.settings

    def upgrade(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> Upgrade:
        del config, app_state

        def listener(request: WSUpgradeRequest) -> Any:
            path = unquote(request.path.decode("ascii", "replace")).partition("?")[0]
            match = PATH.fullmatch(path)
            if match is None:
                return _not_found(path)
            try:
                caller = _let_in(request, door)
                caller.may("read" if match[2] == "watch" else "stream")
                session = None if match[1] is None else chunks.session_id(match[1])
            except CarryoverError as error:
                door.engine.metrics.refused(error)
                return _refusal(*problem(error))
            speaks: WSListener
            if session is not None and match[2] == "watch":
                speaks = Watching(session, caller, server_state.connections)
            else:
                speaks = Conversation(
                    session,
                    caller,
                    limits,
                    settings.socket_messages,
                    caller.most_bytes,
                    server_state.connections,
                    connection.parse,
                )
                connection.speaks = speaks
            return _accepted(request, speaks)

        connection = Upgrade(listener, settings.body_bytes)
        return connection

    return upgrade


def _let_in(request: WSUpgradeRequest, door: Door) -> Caller:
    """Who opens the socket.

    Raises
    ------
    Misdirected, Unauthorized, Forbidden, OverLimit, Overloaded
    """
    headers = request.headers
    check_host(headers.get("host"), door.settings.own_names)
    if not same_origin(headers.get("origin"), headers.get("host"), door.settings.allowed_origins or ()):
        raise Forbidden("pages of another origin may open no socket: see CARRYOVER_ALLOWED_ORIGINS")
    authorization = headers.get("authorization")
    token = next((one.removeprefix(BEARER) for one in _offered(request) if one.startswith(BEARER)), None)
    tenant = headers.get(TENANT_HEADER)
    if authorization is None and token is not None:
        caller = door.holder(token.encode("latin-1", "replace"), tenant)
    else:
        caller = door.caller(None if authorization is None else authorization.encode("latin-1"), tenant)
    caller.use.check_socket()
    return caller


def _offered(request: WSUpgradeRequest) -> list[str]:
    return [
        one.strip() for one in request.headers.get("sec-websocket-protocol", "").split(",") if one.strip()
    ]


def _accepted(request: WSUpgradeRequest, speaks: WSListener) -> WSUpgradeResponseWithListener:
    """A browser gives up a socket that takes none of the protocols it offers; a key is not sent back."""
    offered = _offered(request)
    chosen = PROTOCOL if PROTOCOL in offered else next((one for one in offered if one.startswith(BEARER)), "")
    headers = {"Sec-WebSocket-Protocol": chosen} if chosen else None
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), speaks)


def _not_found(path: str) -> WSUpgradeResponseWithListener:
    told = {"type": "urn:carryover:not-found", "title": "Not Found", "status": 404}
    return _refusal(404, told | {"detail": f"there is no socket at {path[:200]!r}"}, {})


def _refusal(status: int, body: dict[str, Any], headers: dict[str, str]) -> WSUpgradeResponseWithListener:
    told = headers | {"Content-Type": MEDIA_TYPE}
    response = WSUpgradeResponse.create_error_response(HTTPStatus(status), orjson.dumps(body), told)
    return WSUpgradeResponseWithListener(response, None)


def _problem(error: CarryoverError, message: Message | None) -> bytes:
    return frames.refused(problem(error)[1], message)
