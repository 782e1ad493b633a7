"""What every WebSocket of a caller does: it is counted, closed with its key, and closed on shutdown."""

from __future__ import annotations

import asyncio
from typing import Any

from picows import WSCloseCode, WSFrame, WSListener, WSTransport

from app.access.callers import Caller

ABORT_SECONDS = 5.0
"""After which a socket that was closed is cut off, though its client has not read all of it."""
SENDABLE_CODES = frozenset(
    {*range(1000, 1004), *range(1007, 1015)}
)  # RFC 6455, section 7.4; and 3000 to 4999


class CallerSocket(WSListener):
    """One socket, from its handshake to its close.

    Parameters
    ----------
    caller : who opened it
    connections : uvicorn's; on shutdown it waits until they have left the set
    """

    def __init__(self, caller: Caller, connections: set[Any]) -> None:
        self.caller = caller
        self.connections = connections
        self._transport: WSTransport | None = None  # None before the handshake and after the end
        self._write_paused = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Count the socket (picows)."""
        self._transport = transport
        self.connections.add(self)
        self.caller.usage.add_socket(self)
        self.caller.engine.metrics.sockets_opened += 1

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        """Count the socket no more (picows)."""
        self._transport = None
        self.connections.discard(self)
        self.caller.usage.remove_socket(self)

    def pause_reading(self) -> None:
        """Read no further from the transport."""
        if self._transport is not None and self._transport.underlying_transport.is_reading():
            self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.underlying_transport.is_reading():
            self._transport.underlying_transport.resume_reading()

    def pause_writing(self) -> None:
        """Read no further: the client does not read what it is sent, and gets no answers to its pings."""
        self._write_paused = True
        self.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_paused = False
        self.resume_reading()

    def revoke(self) -> None:
        """Close: the key was removed."""
        self._close(WSCloseCode.POLICY_VIOLATION, "the key was revoked")

    def _write(self, frames: bytes) -> None:
        if self._transport is not None:
            self._transport.underlying_transport.write(frames)

    def _close_for_reserved_bits(self) -> None:
        self._close(WSCloseCode.PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")

    def _close(self, code: WSCloseCode, reason: str) -> None:
        if self._transport is not None:
            self._transport.send_close(code, reason.encode())
            self._transport.disconnect()
            transport = self._transport.underlying_transport
            asyncio.get_running_loop().call_later(ABORT_SECONDS, transport.abort)


def has_reserved_bits(frame: WSFrame) -> bool:
    """Whether a frame belongs to an extension: none was agreed on (RFC 6455, section 5.2)."""
    return bool(frame.rsv1 or frame.rsv2 or frame.rsv3)


def close_code(frame: WSFrame) -> WSCloseCode:
    """The code to answer a close frame with: its own; 1000 if it has none; 1002 if it may not be sent."""
    if not frame.get_payload_as_bytes():
        return WSCloseCode.OK
    code = frame.get_close_code()
    is_sendable = code in SENDABLE_CODES or 3000 <= code < 5000  # type: ignore[operator]  # a number
    return code if is_sendable else WSCloseCode.PROTOCOL_ERROR
