"""Everything that can be refused, and why. The core raises these; only `api/problems.py` knows their status.

CarryoverError
├── ConfigError              the service cannot start like this
├── Malformed                not JSON at all, or not the layout that was declared
├── Unprocessable            well formed and wrong: shape, a non-number, an infinity, an empty chunk
├── UnsupportedType          a form of body that this server cannot read or write
├── Unsupported              a part of a protocol that this server does not have
├── TooLarge                 over a limit of the service
├── Unauthorized             no key, or none of this server
├── Forbidden                a key, and not one that may do this
├── Misdirected              meant for a host that this server is not: of a page whose name was rebound to us
├── UnknownModel
├── BadModel                 an artifact on disk that cannot be loaded; the one in memory goes on
├── UnknownSession           never seen, as far as the service remembers
├── SessionGone              it was here: expired or deleted, with its last position
├── SessionExists            a create, fork or import onto a session that is there
├── OtherModel               a state or a carry of another network than the one it is meant for
├── OutOfStep                `at` or `epoch` is not where the session is
├── CannotForecast           the targets do not cover the inputs
├── NothingObserved          a forecast before the first observation
├── SessionDamaged           what the store holds of it fails its checksum; the others go on
├── StepFailed               the network raised, or left the finite numbers; the session did not move
└── Unavailable              not now: try again after a while
    ├── Overloaded           too much is waiting
    ├── OverLimit            more than its key may use
    ├── TooManySessions
    ├── Stopping             the server is draining
    └── StoreFailed          the store refused a commit or a read; nothing moved
"""

from __future__ import annotations

import re
from typing import ClassVar

LONGEST_DETAIL = 500


def slug(error: type[Exception]) -> str:
    """How problems, metrics and logs name a kind of error: `OutOfStep` is `out-of-step`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def _short(text: str) -> str:
    """A refusal quotes what was wrong with a body, and never sends megabytes of it back."""
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}..."


class CarryoverError(Exception):
    """Root of the tree. `extra` holds what a program wants to read beside the sentence."""

    title: ClassVar[str] = "Error"

    def __init__(self, detail: str, **extra: object) -> None:
        detail = _short(detail)
        super().__init__(detail)
        self.detail = detail
        self.extra = {name: _short(told) if isinstance(told, str) else told for name, told in extra.items()}


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
