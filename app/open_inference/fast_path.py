"""`infer` on the hot route: without task or coroutine, the engine's reply writes the answer."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from app.codec.problems import open_inference_error
from app.errors import CarryoverError
from app.jobs.answers import ChunkAnswer
from app.open_inference import encode
from app.open_inference.catalog import Catalog
from app.open_inference.decode import decode_request, decompress
from app.open_inference.inference import Inference
from app.open_inference.statistics import RequestTimer
from app.protocols.exchange import CRASH, Connection, Exchange
from app.protocols.http import ExchangeFactory, HotProtocol

PREFIX = b"/v2/models/"
INFER = re.compile(rb"/v2/models/([^/?#]+)(?:/versions/([^/?#]+))?/infer")
LENGTH = b"inference-header-content-length"
JSON = b"application/json"
NO_QUERY: dict[str, str] = {}


def route(catalog: Catalog) -> ExchangeFactory:
    """The hot route for these models; a request with a query takes the ordinary route."""

    def exchange(protocol: HotProtocol) -> Exchange | None:
        match = INFER.fullmatch(protocol.url)
        if match is None:
            return None
        names = [unquote_to_bytes(part or b"").decode("utf-8", "replace") for part in match.groups()]
        return InferExchange(protocol, catalog, *names)

    return exchange


class InferExchange(Exchange):
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    route = "/v2/models/{model}/infer"
    crash_answer = (JSON, orjson.dumps({"error": CRASH}))
    __slots__ = ("accepted", "catalog", "encoding", "inference", "length", "model", "timer", "version")

    def __init__(self, protocol: Connection, catalog: Catalog, model: str, version: str) -> None:
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
        self.timer = RequestTimer()
        self.inference: Inference | None = None

    def submit(self, body: bytes) -> None:
        self.timer = RequestTimer()
        forecaster = self.catalog.running_forecaster(self.model, self.version)
        if self.encoding:
            body = decompress(body, self.encoding, self.caller.max_bytes)
        limits = self.protocol.limits.chunk
        self.inference = inference = decode_request(
            body, self.length, NO_QUERY, self.model, forecaster, limits
        )
        job = inference.job(limits, self.reply, self.protocol.waiting_client)
        self.timer.mark_submitted()
        self.caller.submit(job)

    def reply(self, outcome: Any) -> None:
        inference = self.inference
        if inference is None or isinstance(outcome, CarryoverError):
            self._refuse(outcome if inference is None else inference.to_triton_error(outcome))
            return
        self.timer.mark_answered()
        try:
            body, headers = self._encode(inference, outcome)
        except Exception as error:  # noqa: BLE001  (whatever it was, the client is answered)
            self.crash(error)
            return
        media_type = headers.pop("content-type").encode()
        self.respond(200, media_type, body, _header_lines(headers))
        self.catalog.count(self.model, self.timer)

    def _encode(self, inference: Inference, answer: ChunkAnswer) -> tuple[bytes, dict[str, str]]:
        body, length = encode.encode_response(inference, answer)
        encoding = ""
        if self.accepted and len(body) >= encode.MIN_COMPRESSED_BYTES:
            body, encoding = encode.compress(body, self.accepted)
        return body, encode.headers(encoding, length)

    def crash(self, error: Exception) -> None:
        """Answer with 500, and count the failure."""
        super().crash(error)
        self.catalog.count(self.model, self.timer, failed=True)

    def _refuse(self, error: CarryoverError) -> None:
        self.count_refusal(error)
        status, document, headers = open_inference_error(error)
        self.respond(status, JSON, orjson.dumps(document), _header_lines(headers))
        self.catalog.count(self.model, self.timer, failed=True)


def _header_lines(headers: dict[str, str]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
