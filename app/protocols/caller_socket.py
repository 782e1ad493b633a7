"""What every WebSocket of a caller does: it is counted, closed with its key, and closed on shutdown."""

from __future__ import annotations

from typing import Any

from picows import WSCloseCode, WSListener, WSTransport

from app.access.callers import Caller


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

    def revoke(self) -> None:
        """Close: the key was removed."""
        self._close(WSCloseCode.POLICY_VIOLATION, "the key was revoked")

    def _write(self, frames: bytes) -> None:
        if self._transport is not None:
            self._transport.underlying_transport.write(frames)

    def _close(self, code: WSCloseCode, reason: str) -> None:
        if self._transport is not None:
            self._transport.send_close(code, reason.encode())
            self._transport.disconnect()
