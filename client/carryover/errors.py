"""The client's errors: one class for each problem type of the server, and a few that are not a server's.

CarryoverError
├── ExportError              a PyTorch module that cannot become an artifact
├── CannotResume             a source cannot go on in a session: its last rows are not those applied last
├── Unreachable              no answer from the server
│   └── TlsFailed            no TLS with the server, and none at another attempt: it is not retried
├── NotCarryover             the answer is not that of a Carryover server
└── Problem                  the server refused the request; its reason is in the message
    ├── Malformed            the body is not JSON, or not in the declared format
    ├── Unprocessable        the values are wrong: shape, type, infinity; see `row`, `column`, `field`;
    │                        `row` counts from 0: in a stream from its first row, else in the chunk
    ├── UnsupportedType      the server cannot read or write this content type
    ├── Unsupported          the server does not have this part of a protocol
    ├── TooLarge             over the limit in `limit`
    ├── UnknownModel
    ├── NoFigure             the model has no picture of its training
    ├── BadModel             the server cannot load the model's artifact
    ├── UnknownSession       the session does not exist
    ├── SessionGone          the session expired or was deleted, at `position`
    ├── SessionExists        a create, fork or load onto a session that exists, or one of another model
    ├── OtherModel           the state is of another network
    ├── OutOfStep            the session is at `position`, not where this client expects it
    ├── CannotForecast       the model's targets do not cover its inputs
    ├── CannotWrite          the model has no vocabulary: it writes no text
    ├── NothingObserved      a forecast or a text before the first observation
    ├── SessionDamaged       the stored session fails its checksum
    ├── StepFailed           the network produced NaN or infinity; the session did not change
    ├── Unauthorized         no key, or an invalid or revoked key
    ├── Forbidden            the key does not permit this
    ├── Misdirected          the Host header names another server
    ├── NotFound             no such route
    ├── MethodNotAllowed
    ├── Internal             the server failed; see its log
    └── Unavailable          not possible now; the client has retried
        ├── Overloaded       too many chunks are waiting
        ├── TooManySessions
        ├── OverLimit        the key's quota is used up
        ├── Stopping         the server is shutting down
        ├── StoreFailed      the store failed; the session did not change
        └── WorkerUnavailable  a process of the server is starting; it may have applied the request
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "BadModel",
    "CannotForecast",
    "CannotResume",
    "CannotWrite",
    "CarryoverError",
    "ExportError",
    "Forbidden",
    "Internal",
    "Malformed",
    "MethodNotAllowed",
    "Misdirected",
    "NoFigure",
    "NotCarryover",
    "NotFound",
    "NothingObserved",
    "OtherModel",
    "OutOfStep",
    "OverLimit",
    "Overloaded",
    "Problem",
    "SessionDamaged",
    "SessionExists",
    "SessionGone",
    "StepFailed",
    "Stopping",
    "StoreFailed",
    "TlsFailed",
    "TooLarge",
    "TooManySessions",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "UnknownSession",
    "Unprocessable",
    "Unreachable",
    "Unsupported",
    "UnsupportedType",
    "WorkerUnavailable",
]

URN = "urn:carryover:"


class CarryoverError(Exception):
    """Base class of the client's errors."""


class ExportError(CarryoverError):
    """A PyTorch module cannot become an artifact; the message says why."""


class CannotResume(CarryoverError):
    """The session has not applied the rows of this source last, or it cannot be decided. Nothing was sent."""


class Unreachable(CarryoverError):
    """No answer came. The server may have applied the request; sending the same request again is safe."""


class TlsFailed(Unreachable):
    """The TLS handshake failed as it will each time: no TLS there, or a certificate that does not verify."""


class NotCarryover(CarryoverError):
    """The answer is not that of a Carryover server: it is a proxy's page, or another service's answer."""


class Problem(CarryoverError):
    """The server refused the request (RFC 9457). `extra` holds the fields for programs, such as `limit`."""

    def __init__(self, detail: str, status: int, kind: str = "", extra: Mapping[str, Any] | None = None):
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.type = kind
        self.extra = dict(extra or {})

    @property
    def position(self) -> int | None:
        """The session's position; None if the server did not send it."""
        return self.extra.get("position")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.detail, self.status, self.type, self.extra)


class Malformed(Problem):
    """See the tree."""


class Unprocessable(Problem):
    """See the tree."""


class UnsupportedType(Problem):
    """See the tree."""


class Unsupported(Problem):
    """See the tree."""


class TooLarge(Problem):
    """See the tree."""


class UnknownModel(Problem):
    """See the tree."""


class NoFigure(Problem):
    """See the tree."""


class BadModel(Problem):
    """See the tree."""


class UnknownSession(Problem):
    """See the tree."""


class SessionGone(Problem):
    """See the tree."""


class SessionExists(Problem):
    """See the tree."""


class OtherModel(Problem):
    """See the tree."""


class OutOfStep(Problem):
    """See the tree."""


class CannotForecast(Problem):
    """See the tree."""


class CannotWrite(Problem):
    """See the tree."""


class NothingObserved(Problem):
    """See the tree."""


class SessionDamaged(Problem):
    """See the tree."""


class StepFailed(Problem):
    """See the tree."""


class Unauthorized(Problem):
    """See the tree."""


class Forbidden(Problem):
    """See the tree."""


class Misdirected(Problem):
    """See the tree."""


class NotFound(Problem):
    """See the tree."""


class MethodNotAllowed(Problem):
    """See the tree."""


class Internal(Problem):
    """See the tree."""


class Unavailable(Problem):
    """The request is not possible now. `retry_after_seconds` is the server's Retry-After."""

    retry_after_seconds: float = 0.0


class Overloaded(Unavailable):
    """See the tree."""


class TooManySessions(Unavailable):
    """See the tree."""


class OverLimit(Unavailable):
    """See the tree."""


class Stopping(Unavailable):
    """See the tree."""


class StoreFailed(Unavailable):
    """See the tree."""


class WorkerUnavailable(Unavailable):
    """See the tree."""


def redirected(location: str, path: str) -> NotCarryover:
    """Return the error for a redirect. It is not followed: the key belongs to the address that was given.

    Parameters
    ----------
    location : where it leads
    path : of the request
    """
    target = location.partition("?")[0]
    address = target.removesuffix(path)
    if address != target and not address.endswith("/"):
        return NotCarryover(f"redirected to {address}: use that as the address")
    return NotCarryover(
        f"redirected to {location}, where no Carryover server is: use the server's own address"
    )


def problem(status: int, body: bytes, retry_after: str | None = None) -> CarryoverError:
    """Return the error for an answer that is not a success, and no redirect.

    Parameters
    ----------
    retry_after : the Retry-After header, in seconds; a date is ignored
    """
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not str(document.get("type", "")).startswith(URN):
        return _foreign_error(status, body, retry_after)
    return refusal(document, retry_after)


def refusal(document: Mapping[str, Any], retry_after: str | None = None) -> Problem:
    """Return the error of a problem document from a response, a socket message or a bulk answer."""
    kind, status = str(document.get("type", "")), int(document.get("status", 0))
    cls = _BY_TYPE.get(kind.removeprefix(URN)) or _BY_STATUS.get(status, Problem)
    extra = {name: value for name, value in document.items() if name not in _STANDARD}
    error = cls(str(document.get("detail", document.get("title", kind))), status, kind, extra)
    return _with_retry_after(error, retry_after)


def place_in_stream(error: Problem, first: int) -> None:
    """Let a refusal name the row of the stream: the server counts from the first row of the chunk.

    Parameters
    ----------
    first : row of the stream where the chunk begins
    """
    row = error.extra.get("row")
    if not isinstance(row, int):
        return
    error.extra["row"] = first + row
    error.detail = re.sub(rf"\brow {row}\b", f"row {first + row} of the stream", error.detail, count=1)
    error.detail = re.sub(rf"\btimestamps\[{row}\]", f"timestamps[{first + row}]", error.detail, count=1)
    error.args = (error.detail,)


def _foreign_error(status: int, body: bytes, retry_after: str | None) -> CarryoverError:
    """The error for an answer that is not the server's, mostly a proxy's; 429 and 502 to 504 are retried."""
    cls = _BY_STATUS.get(status)
    shown = " ".join(body[:200].decode("utf-8", "replace").split())
    if cls is None or not issubclass(cls, Unavailable | Unauthorized | Forbidden):
        return NotCarryover(f"the answer is not from a Carryover server: status {status}, {shown!r}")
    error = cls(f"status {status} from a proxy in front of the server: {shown!r}", status)
    return _with_retry_after(error, retry_after)


def _with_retry_after(error: Problem, retry_after: str | None) -> Problem:
    if isinstance(error, Unavailable) and retry_after is not None and retry_after.strip().isdigit():
        error.retry_after_seconds = float(retry_after)
    return error


def _subclasses(cls: type[Problem]) -> Iterator[type[Problem]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _slug(name: str) -> str:
    """`OutOfStep` -> `out-of-step`, the server's name of the type."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


_STANDARD = ("type", "title", "status", "detail", "session", "tag")
_BY_TYPE = {_slug(cls.__name__): cls for cls in _subclasses(Problem)}
_BY_STATUS: dict[int, type[Problem]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    429: OverLimit,
    500: Internal,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
