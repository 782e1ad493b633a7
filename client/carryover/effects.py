"""Effects: the input and output that a plan requests.

Every operation of this package is a *plan*: a generator that yields effects, receives their results, and
returns its own. It does no input or output itself. So the same plan runs in `service.Carryover`, which blocks
for an effect, and in `aio.AsyncCarryover`, which awaits it. If a connection fails, `Unreachable` is thrown
into the plan.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Plan = Generator[Any, Any, T]


@dataclass(frozen=True, slots=True)
class Request:
    """Send an HTTP request. The result is a `Reply`."""

    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str | int | float | list[str]] | None = None
    kind: str = "application/json"
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response.

    location : where a redirect leads, as a whole address
    kind : the content type; None if nobody has looked
    """

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None
    kind: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the server did what was asked. A redirect says that it did not."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Open a TCP or TLS connection to the server. An older connection is closed."""


@dataclass(frozen=True, slots=True)
class Write:
    """Send bytes on the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for bytes from the connection. The result has at least one."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection, or the answer that comes in pieces, if it is open."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Send an HTTP request whose answer comes in pieces. The result is a `Reply`; a success has no body."""

    request: Request


@dataclass(frozen=True, slots=True)
class More:
    """Wait for the next piece of that answer. The result is empty at its end."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Take the next chunk from the source. The result is None at its end."""


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Give a value to the caller of a stream."""

    value: T


@dataclass(slots=True)
class Attempts:
    """Whether an earlier attempt was sent and not answered: the server may have applied it."""

    unanswered: bool = field(default=False)


OPEN, READ, CLOSE, PULL, MORE = Open(), Read(), Close(), Pull(), More()
