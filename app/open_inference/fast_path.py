"""`infer` on the hot route: no task, no coroutine; the engine's reply writes the answer."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from app.api.errors import protocol_error
from app.errors import CarryoverError
from app.open_inference import encode
from app.open_inference.catalog import Catalog
from app.open_inference.decode import decompressed, read
from app.open_inference.inference import Inference
from app.open_inference.statistics import Watch
from app.protocols.http import HotProtocol, Route, Turn

PREFIX = b"/v2/models/"
INFER = re.compile(rb"/v2/models/([^/?#]+)(?:/versions/([^/?#]+))?/infer")
LENGTH = b"inference-header-content-length"
JSON = b"application/json"
NO_QUERY: dict[str, str] = {}


def route(catalog: Catalog) -> Route:
    """The hot route for these models; a request with a query goes the long way."""

    def turn(protocol: HotProtocol) -> Turn | None:
        match = INFER.fullmatch(protocol.url)
        if match is None:
            return None
        names = [unquote_to_bytes(part or b"").decode("utf-8", "replace") for part in match.groups()]
        return _InferTurn(protocol, catalog, *names)

    return turn


class _InferTurn(Turn):
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    route = "/v2/models/{model}/infer"
    __slots__ = ("accepted", "asked", "catalog", "encoding", "length", "model", "version", "watch")

    def __init__(self, protocol: HotProtocol, catalog: Catalog, model: str, version: str) -> None:
        super().__init__(protocol)
        self.catalog = catalog
        self.model = model
        self.version = version
        self.length = self.encoding = self.accepted = ""
        for name, value in protocol.headers:
            if name == LENGTH:
                self.length = value.decode("latin-1")
            elif name == b"content-encoding":
                self.encoding = value.decode("latin-1")
            elif name == b"accept-encoding":
                self.accepted = value.decode("latin-1")
        self.watch = Watch()
        self.asked: Inference | None = None

    def ask(self, body: bytes) -> None:
        self.watch = Watch()
        forecaster = self.catalog.spoken(self.model, self.version)
        if self.encoding:
            body = decompressed(body, self.encoding, self.caller.most_bytes)
        limits = self.protocol.limits.chunk
        self.asked = asked = read(body, self.length, NO_QUERY, self.model, forecaster, limits)
        job = asked.job(limits, self.reply)
        self.watch.ask()
        self.caller.submit(job)

    def reply(self, outcome: Any) -> None:
        asked = self.asked
        if asked is None or isinstance(outcome, CarryoverError):
            self._refuse(outcome if asked is None else asked.refusal(outcome))
            return
        self.watch.reply()
        body, length = encode.encode(asked, outcome)
        encoding = ""
        if self.accepted and len(body) >= encode.LEAST_COMPRESSED:
            body, encoding = encode.compressed(body, self.accepted)
        told = encode.headers(encoding, length)
        kind = told.pop("content-type").encode()
        self.respond(200, kind, body, _lines(told))
        self.catalog.count(self.model, self.watch)

    def _refuse(self, error: CarryoverError) -> None:
        self.refused(error)
        status, told, headers = protocol_error(error)
        self.respond(status, JSON, orjson.dumps(told), _lines(headers))
        self.catalog.count(self.model, self.watch, failed=True)


def _lines(headers: dict[str, str]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
