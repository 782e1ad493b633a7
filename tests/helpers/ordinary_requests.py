"""Requests as the ordinary way reads them: httptools for the head, `app.codec.chunks` for the body."""

from __future__ import annotations

from dataclasses import dataclass, field

import httptools

from app.codec.chunks import Chunk, decode_chunk
from app.codec.limits import Limits
from app.errors import CarryoverError
from app.protocols.heads import BadHead, check_head
from app.protocols.http import OBSERVATIONS, ROUTED_HEADERS


@dataclass(slots=True)
class OrdinaryRequest:
    """A chunk that the ordinary way accepts."""

    session: str
    chunk: Chunk


@dataclass(slots=True)
class _Message:
    url: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    is_hot: bool = False
    is_complete: bool = False


class OrdinaryConnection:
    """One connection: the parser and the conditions of `app.protocols.http.HotProtocol`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages: list[_Message] = []
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def read(self, data: bytes) -> OrdinaryRequest | None:
        """The request of these bytes; None unless they are just that, with a valid chunk of no options."""
        self._messages.clear()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        if len(self._messages) != 1:
            return None
        (message,) = self._messages
        match = OBSERVATIONS.fullmatch(message.url)
        if match is None or not message.is_hot or not message.is_complete:
            return None
        try:
            chunk = decode_chunk(message.body, self._limits)
        except CarryoverError:
            return None
        if chunk.options is not None or chunk.horizon or chunk.model is not None:
            return None
        return OrdinaryRequest(match[1].decode("ascii"), chunk)

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._messages.append(_Message())

    def on_url(self, url: bytes) -> None:
        self._messages[-1].url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._messages[-1].headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, message = self._parser, self._messages[-1]
        names = {name for name, _ in message.headers}
        try:
            check_head(message.headers, parser.get_http_version())
        except BadHead:
            return
        message.is_hot = (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not names & (ROUTED_HEADERS | {b"expect"})
        )

    def on_body(self, body: bytes) -> None:
        self._messages[-1].body += body

    def on_message_complete(self) -> None:
        if self._messages:
            self._messages[-1].is_complete = True
