"""What a plan asks of the world.

Every operation of this package is a *plan*: a generator that yields effects, gets their results sent in,
and returns its own. It does no input or output itself, so the same plan runs in `service.Carryover`, where
an effect blocks, and in `aio.AsyncCarryover`, where it is awaited. Connections that break come back into the
plan as `Unreachable`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Plan = Generator[Any, Any, T]


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, whole. Its result is a `Reply`."""

    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str | int | float] | None = None
    kind: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, whole."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Seconds to let pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Open a connection for bytes to the server. There is one at a time; an older one is closed."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes to send on that connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes that came in on it, at least one."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close it, if it is open."""


@dataclass(frozen=True, slots=True)
class Pull:
    """The next chunk of the source; None at its end."""


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """A result on the way, for the caller of a stream."""

    value: T


@dataclass(slots=True)
class Tried:
    """Whether a request may have been done already: an earlier try of it was sent and had no answer."""

    before: bool = field(default=False)


OPEN, READ, CLOSE, PULL = Open(), Read(), Close(), Pull()
