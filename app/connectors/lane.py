"""One session of the bridge: where its next chunk begins, and what a refusal of it means.

At most one chunk of a session is on its way, and the place of a session is committed together with the
acknowledgement of its chunk. So the server is either at the place that was committed last, or exactly one
chunk ahead. In the second case, the difference of the two positions is the length of that chunk, and the
chunk can be cut again from the messages that come again. The server compares it with the digest of the one
that it has applied, and answers it from its memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from carryover import OutOfStep

from app.connectors.source import Message, Place

log = logging.getLogger("carryover.connect")


@dataclass(eq=False, slots=True)
class Item:
    """A message, the session it belongs to, and its observation."""

    message: Message
    session: str
    row: Sequence[float | None]


@dataclass(eq=False, slots=True)
class Lane:
    """The messages of one session that wait.

    place : where the next chunk begins
    certain : no chunk of this place can have been applied without our knowledge
    size : cut the next chunk to this length; None: as long as is permitted
    again : the next chunk was cut so that it equals the one that the server must have applied
    single : for how many messages to send each alone, to find the one that the server refuses
    """

    session: str
    place: Place
    certain: bool
    items: deque[Item] = field(default_factory=deque)
    size: int | None = None
    again: bool = False
    single: int = 0

    def chunk(self, limit: int) -> list[Item]:
        """The items to send next; they stay in the lane until `take`."""
        length = self.size or (1 if self.single else limit)
        return [self.items[i] for i in range(min(length, len(self.items)))]

    def take(self, count: int) -> list[Item]:
        """Remove the first items."""
        self.single = max(self.single - count, 0)
        self.size, self.again = None, False
        return [self.items.popleft() for _ in range(count)]

    def advance(self, place: Place) -> None:
        """The chunk was applied."""
        self.place, self.certain = place, True

    def begin_anew(self) -> None:
        """The server has no such session: its next chunk creates it."""
        if self.place.position:
            log.warning(
                "session %s: the server no longer has it, at %d; it begins anew at 0",
                self.session,
                self.place.position,
            )
        self.place, self.size, self.again = Place(0), None, False

    def resolve(self, error: OutOfStep) -> str | None:
        """Decide how to go on after the server refused a place.

        Returns
        -------
        why the chunk must be given up, because nobody can say whether it was applied; None: send again
        """
        position, epoch = error.position, error.extra.get("epoch")
        if position is None:
            return None  # another request moved it meanwhile; the next answer will say where it is
        base = Place(0, epoch) if epoch is not None else self.place
        ahead = position - base.position
        if not self.certain and not self.again and 0 < ahead <= len(self.items):
            self.place, self.size, self.again = base, ahead, True
            return None
        ambiguous = not self.certain and ahead > 0
        here = self.place.position
        self.place, self.size, self.again, self.certain = Place(position, epoch), None, False, True
        if ambiguous:
            return f"the session moved from {here} to {position}, and not by this message alone: {error}"
        # The chunk was not applied: nothing was unanswered, or the server is behind the chunk.
        log.warning("session %s: expected at %d, but it is at %d: %s", self.session, here, position, error)
        return None
