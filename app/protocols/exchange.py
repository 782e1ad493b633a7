"""One request of the hot route, from its body to its answer."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any, ClassVar, Protocol

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.access.callers import Authenticator, Caller
from app.codec import answers, bulk, chunks
from app.codec.problems import PROBLEM_MEDIA_TYPE, problem, problem_body
from app.errors import CarryoverError, OverLimit
from app.jobs.jobs import Advance, Client
from app.observability import logs

log = logging.getLogger("carryover.access")
log_crash = logging.getLogger("carryover.api")

JSON = b"application/json"
PROBLEM = PROBLEM_MEDIA_TYPE.encode()
CRASH = "the server failed; see its log"


class Connection(Protocol):
    """What an exchange needs of the connection that its request came in on."""

    caller: Caller
    request_id: bytes
    waiting_client: Client
    authenticator: ClassVar[Authenticator]
    bulk_decoder: ClassVar[bulk.BulkDecoder]
    limits: ClassVar[bulk.BulkLimits]
    headers: list[tuple[bytes, bytes]]
    logs_requests: ClassVar[bool]

    def standard_headers(self) -> bytes:
        """The headers that every answer has."""

    def write_answers(self) -> None:
        """Write the answers that are next in the order of their requests."""

    def throttle(self, seconds: float) -> None:
        """Read no further for a while."""


class Exchange:
    """One hot request, until its answer is written."""

    __slots__ = ("body", "caller", "keep_alive", "protocol", "request_id", "response", "start_time")
    route = ""  # as the OpenAPI document has it
    crash_answer = (PROBLEM, orjson.dumps(problem_body("internal", "Internal error", 500, CRASH)))

    def __init__(self, protocol: Connection) -> None:
        self.protocol = protocol
        self.caller = protocol.caller
        self.request_id = protocol.request_id
        self.start_time = perf_counter()
        self.body: bytes | bytearray = b""
        self.keep_alive = True
        self.response = b""

    def submit(self, body: bytes) -> None:
        """Queue the job of the body; the engine calls `reply`.

        Raises
        ------
        CarryoverError : nothing was queued
        """
        raise NotImplementedError

    def encode_answer(self, outcome: Any) -> tuple[bytes, bytes]:
        """Content type and body of a success."""
        raise NotImplementedError

    def reply(self, outcome: Any) -> None:
        """Answer with the engine's outcome."""
        status, headers = 200, b""
        if isinstance(outcome, CarryoverError):
            self.count_refusal(outcome)
            status, problem_body, extra = problem(outcome)
            kind, body = PROBLEM, orjson.dumps(problem_body)
            headers = b"".join(f"{name}: {value}\r\n".encode() for name, value in extra.items())
        else:
            try:
                kind, body = self.encode_answer(outcome)
            except Exception as error:  # noqa: BLE001  (whatever it was, the client is answered)
                self.crash(error)
                return
        self.respond(status, kind, body, headers)

    def respond(self, status: int, kind: bytes, body: bytes, headers: bytes = b"") -> None:
        """Answer, once the requests before this are answered.

        Parameters
        ----------
        kind : the content type
        headers : more of them, whole lines
        """
        if self.request_id:
            request_id = logs.request_id(self.request_id.decode("latin-1"), None)
            headers += b"x-request-id: %b\r\n" % request_id.encode()
        self._record(status)
        close = b"" if self.keep_alive else b"connection: close\r\n"
        self.response = b"%b%b%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            STATUS_LINE[status], self.protocol.standard_headers(), headers, close, kind, len(body), body,
        )  # fmt: skip
        self.protocol.write_answers()

    def crash(self, error: Exception) -> None:
        """Answer with 500: without an answer, the connection would wait for ever."""
        log_crash.error("%s crashed", self.route, exc_info=error)
        self.respond(500, *self.crash_answer)

    def count_refusal(self, error: CarryoverError) -> None:
        """Count a refusal; the connection of a key over its quota is not read for a while."""
        self.caller.engine.metrics.record_refusal(error)
        if isinstance(error, OverLimit):
            self.protocol.throttle(error.retry_after_seconds)

    def _record(self, status: int) -> None:
        seconds = perf_counter() - self.start_time
        self.caller.engine.metrics.record_request(self.route, status, seconds)
        if self.protocol.logs_requests:
            self._log(status, seconds)

    def _log(self, status: int, seconds: float) -> None:
        fields = {"method": "POST", "route": self.route, "status": status, "ms": round(1000 * seconds, 3)}
        if self.caller.key is not None:
            fields |= {"key": self.caller.key.name, "tenant": self.caller.tenant}
        request_id = logs.request_id(self.request_id.decode("latin-1"), None)
        log.info("request", extra=fields | {"request_id": request_id})


class ChunkExchange(Exchange):
    """`POST /sessions/{id}/observations`."""

    __slots__ = ("flat", "session")
    route = "/sessions/{id}/observations"

    def __init__(self, protocol: Connection, session: str) -> None:
        super().__init__(protocol)
        self.session = session
        self.flat = False

    def set_plain_response(self, response: bytes) -> None:
        """Take the response that was written for a connection that goes on."""
        close = b"" if self.keep_alive else b"connection: close\r\n"
        self.response = response.replace(b"content-type:", close + b"content-type:", 1)

    def submit(self, body: bytes) -> None:
        chunk = chunks.decode_chunk(body, self.protocol.limits.chunk)
        self.flat = chunk.flat
        self.caller.submit(
            Advance(
                self.session,
                chunk.observations,
                chunk.at,
                chunk.epoch,
                chunk.horizon,
                chunk.model,
                self.reply,
                options=chunk.options,
                client=self.protocol.waiting_client,
            )
        )

    def encode_answer(self, outcome: Any) -> tuple[bytes, bytes]:
        return JSON, answers.encode_chunk_answer(outcome, self.flat)


class BulkExchange(Exchange):
    """`POST /observations`."""

    __slots__ = ("accept", "content_type", "request")
    route = "/observations"

    def __init__(self, protocol: Connection, content_type: str, accept: str) -> None:
        super().__init__(protocol)
        self.content_type = content_type
        self.accept = accept
        self.request: bulk.BulkRequest

    def submit(self, body: bytes) -> None:
        self.request = self.protocol.bulk_decoder.decode(body, self.content_type, self.accept)
        self.request.submit(self.caller, self.reply, self.protocol.waiting_client)

    def encode_answer(self, outcome: Any) -> tuple[bytes, bytes]:
        for error in outcome.errors.values():
            self.count_refusal(error)
        body, content_type = bulk.encode(outcome, self.request)
        return content_type.encode(), body
