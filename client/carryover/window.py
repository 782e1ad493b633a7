"""The chunks of a stream that are in flight: a queue, without input or output.

A chunk stays in the window until its answer arrives. After a failed connection it is sent again over the next
one. The server then applies it, or sends its stored answer, so nothing is lost and nothing is applied twice.
The server stores only a few answers, so the window never holds more chunks than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from carryover.observations import Chunk, check_positive, is_in_memory
from carryover.values import Answer
from carryover.wire import ChunkOptions, Cursor

RECENT_CHUNKS, RECENT_BYTES = 8, 4096
"""The server's defaults of CARRYOVER_RECENT_CHUNKS and CARRYOVER_RECENT_BYTES."""


class Sent:
    """A chunk in flight, and the position where it starts."""

    __slots__ = ("at", "chunk", "first")

    def __init__(self, chunk: Chunk, at: int, first: bool) -> None:
        self.chunk = chunk
        self.at = at
        self.first = first  # sent before an answer has confirmed the session's model


class Window:
    """The chunks of a stream between source and answer.

    Parameters
    ----------
    max_in_flight : the most chunks in flight; it is 1 until the first answer shows the size of answers
    in_memory : reading the source never blocks
    start : position of the session before row 0 of the source; None: that of the first chunk
    """

    def __init__(
        self,
        cursor: Cursor,
        options: ChunkOptions,
        max_in_flight: int,
        in_memory: bool = False,
        start: int | None = None,
    ) -> None:
        self.cursor = cursor
        self.options = options
        self.max_in_flight = max_in_flight
        self.in_memory = in_memory
        self.start = start
        self.pending: deque[Sent] = deque()
        self.max_chunks, self.max_bytes = RECENT_CHUNKS, RECENT_BYTES
        self._bytes_per_observation = 0.0  # of an answer; 0 before the first answer
        self._forecast_bytes = 0
        self._observations_in_flight = 0

    def apply_hello(self, hello: Mapping[str, Any]) -> None:
        """Take over the server's limits, and the session's position if it is not known yet."""
        self.max_chunks = hello.get("recent_chunks", self.max_chunks)
        self.max_bytes = hello.get("recent_bytes", self.max_bytes)
        if self.cursor.position is None:
            self.cursor.position, self.cursor.epoch = hello.get("position") or 0, hello.get("epoch")

    def has_room(self) -> bool:
        """Whether another chunk may be sent before the next answer. With nothing in flight, it always may."""
        pending = self.pending
        if not pending:
            return True
        if not self._bytes_per_observation or len(pending) >= min(self.max_in_flight, self.max_chunks):
            return False
        observations = self._observations_in_flight + len(pending[-1].chunk)
        forecasts = (len(pending) + 1) * self._forecast_bytes
        return observations * self._bytes_per_observation + forecasts <= self.max_bytes

    def push(self, chunk: Chunk) -> Sent:
        """Add a chunk after those in flight."""
        last = self.pending[-1] if self.pending else None
        at = last.at + len(last.chunk) if last else self.cursor.position or 0
        self.start = at if self.start is None else self.start
        sent = Sent(chunk, at, first=not self.cursor.model_confirmed)
        self.pending.append(sent)
        self._observations_in_flight += len(chunk)
        return sent

    def take(self, answer: Answer) -> Answer:
        """Remove the oldest chunk, and take over the position from its answer."""
        sent = self.pending.popleft()
        self._observations_in_flight -= len(sent.chunk)
        self._measure(answer)
        self.cursor.update(answer)
        return answer

    def _measure(self, answer: Answer) -> None:
        if self._bytes_per_observation or not len(answer):  # fewer samples than a frame have no prediction
            return
        forecast = sum(_count(numbers) for name, numbers in answer.raw.items() if name.startswith("forecast"))
        total = sum(_count(numbers) for numbers in answer.raw.values())
        self._forecast_bytes = 4 * forecast
        self._bytes_per_observation = 4 * (total - forecast) / len(answer)


def max_in_flight_for(source: Any, given: int | None) -> int:
    """Return the most chunks in flight; see `Session.stream`."""
    if given is not None:
        return check_positive(given)
    return RECENT_CHUNKS if is_in_memory(source) else 1


def _count(numbers: Any) -> int:
    size = getattr(numbers, "size", None)
    if size is not None:
        return int(size)
    return sum(len(row) if isinstance(row, list) else 1 for row in numbers)
