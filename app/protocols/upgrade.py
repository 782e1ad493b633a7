"""From an HTTP request that asks for a WebSocket to the socket: who opens it, and at which path.

picows speaks the protocol (handshake, frames, masks, ping and close). uvicorn hands over a connection that
asks for an upgrade. This module joins the two.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import orjson
from picows import (
    WSAutoPingStrategy,
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.access.callers import Authenticator, Caller
from app.access.connection_limit import ConnectionLimit
from app.access.origins import TENANT_HEADER, check_host, is_allowed_origin
from app.codec.limits import Limits, validate_session_id
from app.codec.problems import PROBLEM_MEDIA_TYPE, problem, problem_body
from app.errors import CarryoverError, Forbidden
from app.observability import logs
from app.protocols.message_inbox import MessageInbox
from app.protocols.stream_socket import StreamSocket
from app.protocols.watch_socket import WatchSocket

log_frames = logging.getLogger(logs.SOCKET_LOGGER)

PATH = re.compile(r"/sessions/([^/]+)/(stream|watch)|/stream")
PING_SECONDS = 20.0
HANDSHAKE_SECONDS = 5.0
PROTOCOL = "carryover"
BEARER = "carryover.bearer."  # a browser cannot set headers of a WebSocket: it offers its key as a protocol

TENANT = "carryover.tenant."  # and the tenant that an admin names, for the same reason

Upgrade = Callable[[Config, ServerState, dict[str, Any]], "UpgradedConnection"]


class UpgradedConnection(asyncio.Protocol):
    """A connection that asked uvicorn for an upgrade: its bytes go to picows.

    picows reads into a buffer of its own, which a transport that is already reading cannot be switched to.
    """

    def __init__(
        self, listener: Callable[[WSUpgradeRequest], Any], max_bytes: int, limit: ConnectionLimit
    ) -> None:
        self.socket: StreamSocket | None = None
        self._limit = limit
        self._transport: asyncio.BaseTransport | None = None
        self._protocol = WSProtocol(
            None, None, False, listener, log_frames, True, HANDSHAKE_SECONDS, True,
            PING_SECONDS, PING_SECONDS, WSAutoPingStrategy.PING_WHEN_IDLE, True, max_bytes, None, 16_384,
        )  # fmt: skip
        self.eof_received = self._protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = self._protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = self._protocol.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection, which counts in the limit of connections already."""
        self._transport = transport
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        self._limit.release()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse all of it at once, or, where several tenants call, as much as there is room for."""
        socket = self.socket
        if socket is None or not (socket.reader.unparsed or socket.caller.engine.fair_share.contended):
            self.parse(data)
        else:
            socket.reader.receive(data)

    def parse(self, data: bytes) -> None:
        """Copy what came into picows' buffer."""
        rest = memoryview(data)
        while rest and self._transport is not None and not self._transport.is_closing():
            room = self._protocol.get_buffer(len(rest))
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self._protocol.buffer_updated(count)
            rest = rest[count:]


def upgrade_factory(authenticator: Authenticator, limits: Limits) -> Upgrade:
    """What uvicorn takes as its `ws` class."""

    settings = authenticator.settings
    inbox = MessageInbox(authenticator.engine, limits.observations)

    def upgrade(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> UpgradedConnection:
        del config, app_state

        def listener(request: WSUpgradeRequest) -> Any:
            path = unquote(request.path.decode("ascii", "replace")).partition("?")[0]
            match = PATH.fullmatch(path)
            if match is None:
                return _not_found(path)
            try:
                caller = _authenticate(request, authenticator)
                caller.require_role("read" if match[2] == "watch" else "stream")
                session = None if match[1] is None else validate_session_id(match[1])
            except CarryoverError as error:
                authenticator.engine.metrics.record_refusal(error)
                return _refusal(*problem(error))
            socket: WSListener
            if session is not None and match[2] == "watch":
                socket = WatchSocket(session, caller, server_state.connections)
            else:
                socket = connection.socket = StreamSocket(
                    session,
                    caller,
                    limits,
                    settings.socket_messages,
                    caller.max_bytes,
                    server_state.connections,
                    inbox,
                    connection.parse,
                )
            return _acceptance(request, socket)

        connection = UpgradedConnection(listener, settings.body_bytes, authenticator.connections)
        return connection

    return upgrade


def _authenticate(request: WSUpgradeRequest, authenticator: Authenticator) -> Caller:
    """The caller who opens the socket.

    Raises
    ------
    Misdirected, Unauthorized, Forbidden, OverLimit, Overloaded
    """
    headers = request.headers
    check_host(headers.get("host"), authenticator.settings.accepted_host_names)
    if not is_allowed_origin(
        headers.get("origin"), headers.get("host"), authenticator.settings.allowed_origins or ()
    ):
        raise Forbidden("pages of another origin may open no socket: see CARRYOVER_ALLOWED_ORIGINS")
    authorization = headers.get("authorization")
    token = _offered(request, BEARER)
    tenant = headers.get(TENANT_HEADER) or _offered(request, TENANT)
    if authorization is None and token is not None:
        caller = authenticator.authenticate_token(token.encode("latin-1", "replace"), tenant)
    else:
        caller = authenticator.authenticate(
            None if authorization is None else authorization.encode("latin-1"), tenant
        )
    caller.usage.check_socket()
    return caller


def _offered(request: WSUpgradeRequest, prefix: str) -> str | None:
    """What follows this prefix in the first of the offered protocols that has it."""
    found = (name.removeprefix(prefix) for name in _offered_protocols(request) if name.startswith(prefix))
    return next(found, None)


def _offered_protocols(request: WSUpgradeRequest) -> list[str]:
    names = request.headers.get("sec-websocket-protocol", "").split(",")
    return [name.strip() for name in names if name.strip()]


def _acceptance(request: WSUpgradeRequest, socket: WSListener) -> WSUpgradeResponseWithListener:
    """The handshake's answer. A browser gives up a socket that takes none of the protocols it offers."""
    offered = _offered_protocols(request)
    chosen = next((name for name in offered if name.startswith(BEARER)), "")
    if PROTOCOL in offered:
        chosen = PROTOCOL  # so that the key is not sent back
    headers = {"Sec-WebSocket-Protocol": chosen} if chosen else None
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), socket)


def _not_found(path: str) -> WSUpgradeResponseWithListener:
    detail = f"there is no socket at {path[:200]!r}"
    return _refusal(404, problem_body("not-found", "Not Found", 404, detail), {})


def _refusal(status: int, body: dict[str, Any], headers: dict[str, str]) -> WSUpgradeResponseWithListener:
    headers = headers | {"Content-Type": PROBLEM_MEDIA_TYPE}
    response = WSUpgradeResponse.create_error_response(HTTPStatus(status), orjson.dumps(body), headers)
    return WSUpgradeResponseWithListener(response, None)
