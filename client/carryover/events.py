"""The alerts of all sessions as they are raised and cleared, as a plan over `GET /events` (see `effects`).

A lost connection is opened again behind an event that was read some events ago, and what is known already is
left out: workers of a server may send events of the same moment in another order. Before the first event the
server says behind which one the stream begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from carryover import wire
from carryover.effects import CLOSE, MORE, Begin, Emit, Plan, Request, Sleep
from carryover.errors import CarryoverError, NotCarryover, Unavailable, Unreachable
from carryover.retry import Pauses, RetryPolicy
from carryover.sse import CONTENT, Blocks
from carryover.tables import parse_time

OVERLAP = 32  # events that are sent again after a lost connection
REMEMBERED = 4096  # ids of events that were read; the server remembers 1,000 events
ALL_REMEMBERED = "0"
"""As the last id: begin with all events that the server remembers. No event has it."""


@dataclass(frozen=True, slots=True)
class Event:
    """An alert of a session.

    session : the session's id
    kind : "alert": it was raised; "clear": it is over
    cause : why it was raised, in words; None of a clear
    position : of the observation, as the session counts them
    time : when it was found
    id : the same wherever and however often the event is read; pass the last to `events` to go on behind it
    raw : all that the server said, by name
    """

    session: str
    kind: str
    cause: str | None
    position: int
    time: datetime
    id: str
    raw: Mapping[str, Any] = field(repr=False)


def events(last_id: str | None, retry: RetryPolicy) -> Plan[None]:
    """Emit each event once, without an end."""
    reading, pauses = _Reading(last_id), Pauses(retry)
    while True:
        try:
            yield from _follow(reading, pauses)
        except (Unreachable, Unavailable) as error:
            failure: CarryoverError = error
        yield CLOSE
        yield Sleep(pauses.after(failure))


def _follow(reading: _Reading, pauses: Pauses) -> Plan[None]:
    """Emit what comes over one connection, until it is lost."""
    request = reading.request()
    wire.check_stream(request, (yield Begin(request)))
    blocks = Blocks()
    while True:
        for block in blocks.feed((yield MORE)):
            pauses.progress()  # also by a comment, which says that the server is there
            if block.data is None:
                reading.begin(block.id)
            elif block.id is None or reading.take(block.id):
                yield Emit(_event(block.document()))


class _Reading:
    """Which events were read."""

    def __init__(self, last_id: str | None) -> None:
        self._overlap: deque[str] = deque(() if last_id is None else (last_id,), OVERLAP)
        self._order: deque[str] = deque(maxlen=REMEMBERED)
        self._known: set[str] = set()

    def request(self) -> Request:
        """Return the request for what was not read, and for some that was."""
        behind = {"last-event-id": self._overlap[0]} if self._overlap else {}
        return Request("GET", "/events", headers={"accept": CONTENT} | behind)

    def begin(self, last_id: str | None) -> None:
        """Note behind which event the stream begins."""
        if last_id is not None and not self._overlap:
            self._overlap.append(last_id)

    def take(self, event_id: str) -> bool:
        """Note an event, and return whether it is new."""
        if event_id in self._known:
            return False
        if len(self._order) == REMEMBERED:
            self._known.discard(self._order[0])
        self._order.append(event_id)
        self._known.add(event_id)
        self._overlap.append(event_id)
        return True


def _event(fields: Mapping[str, Any]) -> Event:
    try:
        return Event(
            session=fields["session"],
            kind=fields["event"],
            cause=fields.get("cause"),
            position=fields["position"],
            time=parse_time(fields["time"]),
            id=fields["id"],
            raw=fields,
        )
    except (KeyError, ValueError) as error:
        raise NotCarryover(f"an event of the stream cannot be read: {error!r}") from None
