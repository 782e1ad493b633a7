"""What a broker must offer to the bridge, and the values that pass between them.

A source of a third broker needs the same calls. Of Kafka, for example: `locate` reads the positions that were
committed with the offsets, and `commit` is one transaction of the publications and the offsets.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from carryover import RetryPolicy, Unreachable
from carryover.retry import Pauses

from app.errors import CarryoverError

T = TypeVar("T")
log = logging.getLogger("carryover.connect")


class ConnectorError(CarryoverError):
    """The bridge cannot go on: its message says why. Nothing that it holds has been acknowledged."""

    title = "Bridge stopped"


class BadMessage(Exception):
    """A message that is no observation, with the reason."""


class Stopped(Exception):
    """The bridge was asked to stop while it waited for a broker or the server."""


@dataclass(eq=False, slots=True)
class Message:
    """One message of a broker.

    origin : where it comes from, for logs and dead letters
    names : what templates may use
    payload : bytes; or text by field name
    handle : what the source needs to acknowledge it
    """

    origin: str
    names: Mapping[str, str]
    payload: bytes | Mapping[str, str]
    handle: Any = None


@dataclass(frozen=True, slots=True)
class Place:
    """A position of a session, and the epoch that it belongs to."""

    position: int
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where the unacknowledged messages of a session belong.

    place : where the session was before the first of them that is not counted in `applied`; None: not known
    applied : how many of the first messages the server has applied for certain
    certain : none of the others can have been applied
    """

    place: Place | None = None
    applied: int = 0
    certain: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """A document for a topic or a stream."""

    target: str
    document: Mapping[str, Any]


@dataclass(slots=True)
class Outcome:
    """What one round of chunks leaves behind.

    messages : in the order of their arrival; applied or rejected, and to be acknowledged
    places : where each session is now
    publications : predictions, alarms and dead letters
    """

    messages: list[Message] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    publications: list[Publication] = field(default_factory=list)


class Source(Protocol):
    """A broker. Every call waits while the broker is away, and raises `Stopped` when the bridge must stop.

    guarantee : what holds from end to end, for the log
    slashes : the names of its topics have slashes, which become colons in session ids
    names : what templates may use of every message; None: it is up to the message
    """

    guarantee: str
    slashes: bool
    names: frozenset[str] | None

    def connect(self) -> None:
        """Connect and subscribe.

        Raises
        ------
        ConnectorError : the broker refuses this client
        """

    def receive(self, limit: int, seconds: float) -> list[Message]:
        """Wait for messages; return the first `limit`, in order. Those of an earlier run come first."""

    def locate(self, waiting: Mapping[str, Sequence[Message]]) -> dict[str, Location]:
        """Say where the messages of these sessions belong; called before a session's first chunk."""

    def prepare(self, chunks: Mapping[str, tuple[Place, Sequence[Message]]]) -> None:
        """Note which messages are about to be sent as a chunk for which place."""

    def commit(self, outcome: Outcome) -> None:
        """Publish, then acknowledge."""

    def lag(self) -> int | None:
        """How many messages wait at the broker; None if it does not say."""

    def close(self) -> None:
        """Disconnect. Messages that are not acknowledged come again."""


def retry(
    action: Callable[[], T], errors: tuple[type[Exception], ...], address: str, stop: threading.Event
) -> T:
    """Repeat an action while it fails with one of these errors, with pauses that grow.

    Raises
    ------
    Stopped : the bridge must stop
    """
    pauses = Pauses(RetryPolicy(math.inf))
    while True:
        try:
            return action()
        except errors as error:
            pause = pauses.after(
                Unreachable(f"no answer from {address}: {str(error) or type(error).__name__}")
            )
        if stop.wait(pause):
            raise Stopped
