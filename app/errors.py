"""The errors of the service. The core raises them; `codec/problems.py` alone knows their HTTP status.

CarryoverError
├── ConfigError              the settings do not allow a start
├── Malformed                not JSON, or not in the declared format
├── Unprocessable            well formed but wrong: shape, not a number, infinity, an empty chunk
├── UnsupportedType          a media type that the server cannot read or write
├── Unsupported              a part of a protocol that the server does not support
├── TooLarge                 above a limit of the service
├── Unauthorized             no API key, or an invalid or revoked key
├── Forbidden                the role of the key does not allow this
├── Misdirected              the `Host` is not a name of this server (protects against DNS rebinding)
├── UnknownModel
├── NoFigure                 the folder of a model has no picture of its training
├── BadModel                 an artifact on disk cannot be loaded; the model in memory stays in use
├── UnknownSession           no such session, as far as the server remembers
├── SessionGone              the session expired or was deleted; has its last position
├── SessionExists            create, fork or import with the id of an existing session
├── OtherModel               a state or carry belongs to another network
├── OutOfStep                `at` or `epoch` differs from the session's
├── CannotForecast           the model does not predict all its inputs
├── CannotWrite              the model has no vocabulary, so it writes no text
├── NothingObserved          forecast or text before the first observation
├── SessionDamaged           the session's record in the store has a wrong checksum
├── StepFailed               the network raised, or produced NaN or infinity; the session did not advance
└── Unavailable              try again later
    ├── Overloaded           too many jobs wait
    ├── OverLimit            above a limit of the key
    ├── TooManySessions
    ├── Stopping             the server is stopping
    ├── StoreFailed          the store failed at a commit or a read; nothing changed
    └── WorkerUnavailable    the worker of the session ended or is starting; it may have applied the request
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

MAX_DETAIL_CHARACTERS = 500
MAX_NAMES = 16  # listed in an error


def slug(error: type[Exception]) -> str:
    """Name of an error class in problems, metrics and logs: `OutOfStep` is `out-of-step`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def _shorten(text: str) -> str:
    """Errors quote parts of a request, which may have megabytes."""
    return text if len(text) <= MAX_DETAIL_CHARACTERS else f"{text[:MAX_DETAIL_CHARACTERS]}..."


def list_names(names: Sequence[str]) -> str:
    """Names in the text of an error; the first of many."""
    return ", ".join(name[:80] for name in names[:MAX_NAMES]) + ", ..." * (len(names) > MAX_NAMES)


class CarryoverError(Exception):
    """Root of the tree. `extra` has values that a program can read beside the text."""

    title: ClassVar[str] = "Error"

    def __init__(self, detail: str, **extra: object) -> None:
        detail = _shorten(detail)
        super().__init__(detail)
        self.detail = detail
        self.extra = {
            name: _shorten(value) if isinstance(value, str) else value for name, value in extra.items()
        }


class ConfigError(CarryoverError):
    title = "Bad configuration"


class Malformed(CarryoverError):
    title = "Malformed request"


class Unprocessable(CarryoverError):
    title = "Unprocessable"


class UnsupportedType(CarryoverError):
    title = "Unsupported type"


class Unsupported(CarryoverError):
    title = "Unsupported"


class TooLarge(CarryoverError):
    title = "Too large"


class Unauthorized(CarryoverError):
    title = "Unauthorized"


class Forbidden(CarryoverError):
    title = "Forbidden"


class Misdirected(CarryoverError):
    title = "Misdirected request"


class UnknownModel(CarryoverError):
    title = "Unknown model"


class NoFigure(CarryoverError):
    title = "No figure"


class BadModel(CarryoverError):
    title = "Bad model"


class UnknownSession(CarryoverError):
    title = "Unknown session"


class SessionGone(CarryoverError):
    title = "Session gone"


class SessionExists(CarryoverError):
    title = "Session exists"


class OtherModel(CarryoverError):
    title = "Other model"


class OutOfStep(CarryoverError):
    title = "Out of step"


class CannotForecast(CarryoverError):
    title = "Cannot forecast"


class CannotWrite(CarryoverError):
    title = "Cannot write"


class NothingObserved(CarryoverError):
    title = "Nothing observed"


class SessionDamaged(CarryoverError):
    title = "Session damaged"


class StepFailed(CarryoverError):
    title = "Step failed"


class Unavailable(CarryoverError):
    title = "Unavailable"
    retry_after_seconds: int = 1


class Overloaded(Unavailable):
    title = "Overloaded"


class OverLimit(Unavailable):
    title = "Over limit"

    def __init__(self, detail: str, retry_after_seconds: int = 1, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.retry_after_seconds = retry_after_seconds


class TooManySessions(Unavailable):
    title = "Too many sessions"
    retry_after_seconds = 60


class Stopping(Unavailable):
    title = "Stopping"


class StoreFailed(Unavailable):
    title = "Store failed"


class WorkerUnavailable(Unavailable):
    title = "Worker unavailable"
