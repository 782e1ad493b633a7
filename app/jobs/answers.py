"""What the engine answers: plain values, which `wire` turns into bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

from app.errors import CarryoverError
from app.session.rows import Answer
from models.adaptation.learner import ErrorStatistics
from models.arrays import Epochs, Floats, Ints
from models.artifact.learning import Learning

EPOCH_TOKEN = re.compile(r"(?!0{16})[0-9a-f]{16}", re.ASCII)
UNKNOWN_EPOCH = 2
"""An epoch that no session has: theirs are odd. Zero stands for no epoch at all."""


class ChunkAnswer(msgspec.Struct, eq=False):
    """A chunk applied, or answered again; or a forecast. A `Struct`: it costs half to make."""

    session: str
    model: str
    position: int
    epoch: int
    replayed: bool
    answer: Answer


@dataclass(slots=True, eq=False)
class BulkAnswer:
    """Many chunks applied, answered again, or refused: columns in the order of the request.

    positions, epochs : [n]; -1 and 0 where refused
    steps : [n], how many predictions each chunk has; 0 where refused
    outputs : numbers in one prediction; [n] where the sessions' models differ
    numbers : [total], the predictions of one chunk after the other, flat
    replayed : indexes of the chunks that had been applied already, ascending
    errors : by index, of those that were refused
    findings : by name and index, what is told beside the predictions: lower, residuals, scores, ...
    """

    positions: Ints
    epochs: Epochs
    steps: Ints
    outputs: int | Ints
    numbers: Floats
    replayed: list[int] = field(default_factory=list)
    errors: dict[int, CarryoverError] = field(default_factory=dict)
    extra_outputs: dict[str, dict[int, Floats]] = field(default_factory=dict)

    def add_extra_outputs(self, i: int, more: Answer) -> None:
        """Tell these beside the predictions of the chunk at this index."""
        for name, numbers in more.items():
            self.extra_outputs.setdefault(name, {})[i] = numbers


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as people see it."""

    session: str
    model: str
    fingerprint: str
    learning: Learning
    level: float | None  # of the intervals that it wants with every chunk
    errors: ErrorStatistics | None  # [1, outputs]
    position: int
    epoch: int
    since_reset: int
    last_prediction: Floats | None  # [outputs]
    created: float
    seen: float
    expires: float | None
    ttl_seconds: float | None


def epoch_token(epoch: int) -> str:
    """An epoch as clients see it: 16 hexadecimal digits."""
    return f"{epoch:016x}"


def parse_epoch(text: str) -> int:
    """The epoch that `epoch_token` wrote; for a text that it cannot have written, one that no session has."""
    return int(text, 16) if EPOCH_TOKEN.fullmatch(text) else UNKNOWN_EPOCH
