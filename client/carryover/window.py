"""What a stream has in flight. Pure state: chunks go in behind, answers take them out in front.

A chunk stays here until its answer is in, and is sent again over whatever connection comes next. The server
then applies it, or answers it from what it remembers, so that nothing is lost and nothing applied twice. It
remembers a few chunks and a few bytes of answers only: no more than that may be in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from carryover.numbers import Chunk, checked_size, is_whole
from carryover.values import Answer
from carryover.wire import Cursor, Wanted

RECENT_CHUNKS, RECENT_BYTES = 8, 4096
"""What a server remembers unless its operator set CARRYOVER_RECENT_CHUNKS and CARRYOVER_RECENT_BYTES."""


class Sent:
    """A chunk in flight, and where it starts."""

    __slots__ = ("at", "chunk", "first")

    def __init__(self, chunk: Chunk, at: int, first: bool) -> None:
        self.chunk = chunk
        self.at = at
        self.first = first  # it is sent before an answer has told the epoch


class Window:
    """The chunks of a stream between source and answer.

    Parameters
    ----------
    ahead : chunks in flight at most; one, until the first answer has told what an answer weighs
    whole : the source never waits
    """

    def __init__(self, cursor: Cursor, wanted: Wanted, ahead: int, whole: bool = False) -> None:
        self.cursor = cursor
        self.wanted = wanted
        self.ahead = ahead
        self.whole = whole
        self.pending: deque[Sent] = deque()
        self.most_chunks, self.most_bytes = RECENT_CHUNKS, RECENT_BYTES
        self._weight = 0.0  # bytes of answer an observation
        self._forecast_bytes = 0
        self._flying = 0  # observations

    def learned(self, hello: Mapping[str, Any]) -> None:
        """Take over what the server says of itself and of the session."""
        self.most_chunks = hello.get("recent_chunks", self.most_chunks)
        self.most_bytes = hello.get("recent_bytes", self.most_bytes)
        if self.cursor.position is None:
            self.cursor.position, self.cursor.epoch = hello.get("position") or 0, hello.get("epoch")

    def has_room(self) -> bool:
        """Whether another chunk may be sent before an answer comes; a first one always may."""
        pending = self.pending
        if not pending:
            return True
        if not self._weight or len(pending) >= min(self.ahead, self.most_chunks):
            return False
        observations = self._flying + len(pending[-1].chunk)
        bytes_ = observations * self._weight + (len(pending) + 1) * self._forecast_bytes
        return bytes_ <= self.most_bytes

    def push(self, chunk: Chunk) -> Sent:
        """Put a chunk behind those in flight."""
        last = self.pending[-1] if self.pending else None
        at = last.at + len(last.chunk) if last else self.cursor.position or 0
        sent = Sent(chunk, at, first=not self.cursor.model_told)
        self.pending.append(sent)
        self._flying += len(chunk)
        return sent

    def take(self, answer: Answer) -> Answer:
        """The answer to the chunk in front."""
        sent = self.pending.popleft()
        self._flying -= len(sent.chunk)
        self._weigh(answer)
        self.cursor.moved(answer)
        return answer

    def _weigh(self, answer: Answer) -> None:
        if self._weight:
            return
        ahead = sum(_count(numbers) for name, numbers in answer.raw.items() if name.startswith("forecast"))
        total = sum(_count(numbers) for numbers in answer.raw.values())
        self._forecast_bytes = 4 * ahead
        self._weight = 4 * (total - ahead) / len(answer)


def ahead_of(source: Any, given: int | None) -> int:
    """Chunks in flight at most: see `Session.stream`."""
    if given is not None:
        return checked_size(given)
    return RECENT_CHUNKS if is_whole(source) else 1


def _count(numbers: Any) -> int:
    size = getattr(numbers, "size", None)
    if size is not None:
        return int(size)
    return sum(len(row) if isinstance(row, list) else 1 for row in numbers)
