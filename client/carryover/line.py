"""The session's socket: a WebSocket spoken over a plain connection, as plans.

The protocol is the `websockets` library's, which does no input or output of its own (the extra `sockets`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from carryover import errors, wire
from carryover.effects import CLOSE, OPEN, READ, Plan, Write
from carryover.errors import CarryoverError, Unavailable, Unreachable, problem

try:
    from websockets.client import ClientProtocol
    from websockets.frames import Opcode
    from websockets.http11 import Response
    from websockets.uri import parse_uri
except ImportError:  # the extra `sockets`
    ClientProtocol = None  # type: ignore[assignment, misc]
else:
    WHOLE = (Opcode.TEXT, Opcode.BINARY)  # the server sends each message in one frame

MESSAGE_BYTES = 2**28
LASTING = (Unavailable, errors.Unauthorized, errors.Forbidden, errors.Unprocessable)
"""What a request would be told, too: no reason to fall back to one."""


class NoSocket(CarryoverError):
    """There is no socket to be had: no library for it, or something in between speaks plain HTTP only."""


class Line:
    """One open socket. `hello` is the server's first message."""

    def __init__(self, protocol: ClientProtocol) -> None:
        self._protocol = protocol
        self._events: list[Any] = []
        self.hello: dict[str, Any] = {}

    def put(self, data: bytes, *, text: bool) -> None:
        """Queue one message; `flush` sends what is queued in one piece."""
        (self._protocol.send_text if text else self._protocol.send_binary)(data)

    def flush(self) -> Plan[None]:
        """Send what is queued."""
        queued = self._protocol.data_to_send()
        if queued:
            yield Write(b"".join(queued))

    def receive(self) -> Plan[list[tuple[bytes, bool]]]:
        """The messages that came in, at least one, and whether each is text.

        Raises
        ------
        Unreachable : the server closed it, to stop or because it went away
        """
        while True:
            events, self._events = self._events, []
            messages = [
                (frame.data, frame.opcode is Opcode.TEXT) for frame in events if frame.opcode in WHOLE
            ]
            if messages:
                return messages
            if any(frame.opcode is Opcode.CLOSE for frame in events):
                why = self._protocol.close_reason or "it gave no reason"
                raise Unreachable(f"the server closed the socket: {why}")
            self._events = yield from _events(self._protocol)

    def close(self) -> Plan[None]:
        """Say goodbye; nobody waits for an answer."""
        self._protocol.send_close()
        yield from self.flush()
        yield CLOSE


def opened(url: str, key: str | None) -> Plan[Line]:
    """Open a session's socket, up to the server's hello.

    Parameters
    ----------
    url : ws:// or wss://

    Raises
    ------
    NoSocket : nor will there be one later
    Unreachable, Unavailable, Unauthorized, Forbidden
    """
    if ClientProtocol is None:
        raise NoSocket("pip install 'carryover-client[sockets]' for streams over a socket")
    protocol = ClientProtocol(parse_uri(url), max_size=MESSAGE_BYTES)
    request = protocol.connect()
    if key is not None:
        request.headers["Authorization"] = f"Bearer {key}"
    protocol.send_request(request)
    yield OPEN
    yield Write(b"".join(protocol.data_to_send()))
    events: list[Any] = []
    while not events:
        events = yield from _events(protocol)
    _check(events[0], protocol)
    line = Line(protocol)
    line._events = events[1:]
    greeting, *_ = yield from line.receive()
    line.hello = wire.read(greeting[0])
    return line


def _events(protocol: ClientProtocol) -> Plan[list[Any]]:
    data = yield READ
    protocol.receive_data(data)
    answer = b"".join(protocol.data_to_send())
    if answer:  # to a ping, or to a close
        yield Write(answer)
    return protocol.events_received()


def _check(response: Any, protocol: ClientProtocol) -> None:
    """Raise what a handshake that was refused means."""
    if not isinstance(response, Response):
        raise NoSocket("the answer to the handshake is no HTTP")
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS and protocol.handshake_exc is None:
        return
    error = problem(response.status_code, bytes(response.body or b""), response.headers.get("Retry-After"))
    if isinstance(error, LASTING):
        raise error
    raise NoSocket(f"the server opened no socket: {error}")
