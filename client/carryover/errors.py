"""Everything that can go wrong, one class for each type of problem that the server knows.

CarryoverError
├── Unreachable              no answer at all, for as long as the client's patience lasts
├── NotCarryover             something answered that does not speak for a Carryover server
└── Problem                  the server refused, and said why
    ├── Malformed            not JSON at all, or not the layout that was declared
    ├── Unprocessable        well formed and wrong: shape, a non-number, an infinity; `row`, `column`, `field`
    ├── UnsupportedType      a form of body that the server cannot read or write
    ├── Unsupported          a part of a protocol that the server does not have
    ├── TooLarge             over a limit of the service: `limit`
    ├── UnknownModel
    ├── BadModel             an artifact on the server's disk that cannot be loaded
    ├── UnknownSession       never seen, as far as the server remembers
    ├── SessionGone          it was there: expired or deleted at `position`
    ├── SessionExists        a create, fork or load onto a session that is there, or one of another model
    ├── OtherModel           a state of another network than the one it is meant for
    ├── OutOfStep            the session is at `position`, not where this client left it
    ├── CannotForecast       the targets do not cover the inputs
    ├── NothingObserved      a forecast before the first observation
    ├── SessionDamaged       what the store holds of it fails its checksum
    ├── StepFailed           the network left the finite numbers; the session did not move
    ├── Unauthorized         no key, or one that the server does not know
    ├── Forbidden            the key may not do this
    ├── Misdirected          addressed to a host that this server, which needs no key, is not
    ├── NotFound             there is no such route: another version, or another service
    ├── MethodNotAllowed
    ├── Internal             the server failed; its log says why
    └── Unavailable          not now; tried again before it was raised
        ├── Overloaded       too much is waiting
        ├── TooManySessions
        ├── OverLimit        more than this key may use
        ├── Stopping         the server is draining
        └── StoreFailed      the store refused; nothing moved
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "BadModel",
    "CannotForecast",
    "CarryoverError",
    "Forbidden",
    "Internal",
    "Malformed",
    "MethodNotAllowed",
    "Misdirected",
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
]

URN = "urn:carryover:"


class CarryoverError(Exception):
    """Root of the tree."""


class Unreachable(CarryoverError):
    """No answer came; whether the request was done is not known. To send the very same again is safe."""


class NotCarryover(CarryoverError):
    """An answer that no Carryover server gives: a proxy's page, another service."""


class Problem(CarryoverError):
    """The server refused (RFC 9457). `extra` holds what a program wants to read beside the sentence."""

    def __init__(self, detail: str, status: int, kind: str = "", extra: Mapping[str, Any] | None = None):
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.type = kind
        self.extra = dict(extra or {})

    @property
    def position(self) -> int | None:
        """Where the session is, or was; None where the server did not say."""
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
    """Not now. `retry_after_seconds` is what the server asked for."""

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


def problem(status: int, body: bytes, retry_after: str | None = None) -> CarryoverError:
    """The error that an answer with this status tells of.

    Parameters
    ----------
    retry_after : the header, in seconds; a date in it is not read
    """
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict) or not str(told.get("type", "")).startswith(URN):
        return _foreign(status, body, retry_after)
    return refusal(told, retry_after)


def refusal(told: Mapping[str, Any], retry_after: str | None = None) -> Problem:
    """The error in a problem document: a body, a frame of a socket, an entry of a bulk answer."""
    kind, status = str(told.get("type", "")), int(told.get("status", 0))
    cls = _BY_TYPE.get(kind.removeprefix(URN)) or _BY_STATUS.get(status, Problem)
    extra = {name: value for name, value in told.items() if name not in _STANDARD}
    error = cls(str(told.get("detail", told.get("title", kind))), status, kind, extra)
    return _timed(error, retry_after)


def _foreign(status: int, body: bytes, retry_after: str | None) -> CarryoverError:
    """An answer of a proxy, mostly: 502 to 504 pass, whatever else stays."""
    cls = _BY_STATUS.get(status)
    shown = " ".join(body[:200].decode("utf-8", "replace").split())
    if cls is None or not issubclass(cls, Unavailable | Unauthorized | Forbidden):
        return NotCarryover(f"no Carryover server answers there: status {status}, {shown!r}")
    return _timed(cls(f"status {status} from in front of the server: {shown!r}", status), retry_after)


def _timed(error: Problem, retry_after: str | None) -> Problem:
    if isinstance(error, Unavailable) and retry_after is not None and retry_after.strip().isdigit():
        error.retry_after_seconds = float(retry_after)
    return error


def _beneath(cls: type[Problem]) -> Iterator[type[Problem]]:
    for one in cls.__subclasses__():
        yield one
        yield from _beneath(one)


def _slug(name: str) -> str:
    """`OutOfStep` -> `out-of-step`, as the server writes it."""
    return "".join(f"-{one.lower()}" if one.isupper() else one for one in name).lstrip("-")


_STANDARD = ("type", "title", "status", "detail", "session", "tag")
_BY_TYPE = {_slug(cls.__name__): cls for cls in _beneath(Problem)}
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
