"""The session's socket, as plans. It uses the protocol classes of `websockets` (the extra `sockets`)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

from carryover import errors, wire
from carryover.effects import CLOSE, OPEN, READ, Plan, Write
from carryover.errors import CarryoverError, Unavailable, Unreachable, problem, redirected

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
PERMANENT = (Unavailable, errors.Unauthorized, errors.Forbidden, errors.Unprocessable)
"""A request would be refused for the same reason: there is no point in falling back to requests."""


class SocketUnavailable(CarryoverError):
    """A socket cannot be used: `websockets` is not installed, or a proxy supports only plain HTTP."""


class SessionSocket:
    """An open socket of one session. `hello` is the server's first message."""

    def __init__(self, protocol: ClientProtocol) -> None:
        self._protocol = protocol
        self._events: list[Any] = []
        self.hello: dict[str, Any] = {}

    def put(self, data: bytes, *, text: bool) -> None:
        """Queue one message; `flush` sends all queued messages at once."""
        (self._protocol.send_text if text else self._protocol.send_binary)(data)

    def flush(self) -> Plan[None]:
        """Send the queued messages."""
        queued = self._protocol.data_to_send()
        if queued:
            yield Write(b"".join(queued))

    def receive(self) -> Plan[list[tuple[bytes, bool]]]:
        """Return the received messages, at least one, and for each whether it is text.

        Raises
        ------
        Unreachable : the server closed the socket
        """
        while True:
            events, self._events = self._events, []
            messages = [
                (frame.data, frame.opcode is Opcode.TEXT) for frame in events if frame.opcode in WHOLE
            ]
            if messages:
                return messages
            if any(frame.opcode is Opcode.CLOSE for frame in events):
                reason = self._protocol.close_reason or "no reason given"
                raise Unreachable(f"the server closed the socket: {reason}")
            self._events = yield from _events(self._protocol)

    def close(self) -> Plan[None]:
        """Send a close frame and close the connection, without waiting for the server's close frame."""
        self._protocol.send_close()
        yield from self.flush()
        yield CLOSE


def open_socket(url: str, key: str | None) -> Plan[SessionSocket]:
    """Open a session's socket, and wait for the server's hello.

    Parameters
    ----------
    url : ws:// or wss://

    Raises
    ------
    SocketUnavailable : sockets do not work here, now or later
    Unreachable, Unavailable, Unauthorized, Forbidden
    """
    if ClientProtocol is None:
        raise SocketUnavailable(
            "streaming over a socket needs the package websockets: pip install websockets"
        )
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
        if not events and protocol.handshake_exc is not None:
            raise SocketUnavailable(f"the server refused the WebSocket handshake: {protocol.handshake_exc}")
    _check(events[0], protocol, url)
    session_socket = SessionSocket(protocol)
    session_socket._events = events[1:]
    (data, _), *_ = yield from session_socket.receive()
    session_socket.hello = wire.parse_object(data)
    return session_socket


def _events(protocol: ClientProtocol) -> Plan[list[Any]]:
    data = yield READ
    protocol.receive_data(data)
    answer = b"".join(protocol.data_to_send())
    if answer:  # to a ping, or to a close
        yield Write(answer)
    return protocol.events_received()


def _check(response: Any, protocol: ClientProtocol, url: str) -> None:
    """Raise the error of a refused handshake."""
    if not isinstance(response, Response):
        raise SocketUnavailable("the answer to the WebSocket handshake is not HTTP")
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS and protocol.handshake_exc is None:
        return
    error = _failure(response, url)
    if isinstance(error, PERMANENT):
        raise error
    raise SocketUnavailable(f"the server refused the WebSocket handshake: {error}")


def _failure(response: Response, url: str) -> CarryoverError:
    location = response.headers.get("Location")
    if 300 <= response.status_code < 400 and location is not None:
        _, route, rest = url.rpartition("/sessions/")
        return redirected(urljoin(url, location), route + rest)
    return problem(response.status_code, bytes(response.body or b""), response.headers.get("Retry-After"))
