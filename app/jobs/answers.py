"""What the engine answers: plain values, which `app.codec` turns into bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from app.errors import CarryoverError
from app.session.notes import Alert, Labels
from app.session.rows import Answer
from models.adaptation.learner import ErrorStatistics
from models.arrays import Epochs, Ints, Numbers
from models.artifact.learning import Learning
from models.nets.signature import Port

EPOCH_TOKEN = re.compile(r"(?!0{16})[0-9a-f]{16}", re.ASCII)
QUANTILE, FORECAST_QUANTILE = "quantile ", "forecast_quantile "
"""Begin the names of quantiles among outputs; the quantile, such as 0.05, follows. The second is of the
forecast behind a chunk."""

UNKNOWN_EPOCH = 2
"""An epoch that no session has: the epochs of sessions are odd, and 0 stands for no claim."""


class ChunkAnswer(msgspec.Struct, eq=False):
    """A chunk that was applied or answered again, or a forecast.

    A `Struct`, because it takes half as long to make.

    ports : the outputs of the session's network, which divide a prediction among themselves
    """

    session: str
    model: str
    position: int
    epoch: int
    replayed: bool
    answer: Answer
    ports: tuple[Port, ...] = ()


@dataclass(slots=True, eq=False)
class BulkAnswer:
    """Chunks that were applied, answered again, or refused, in columns in the order of the request.

    positions, epochs : [n]; -1 and 0 where refused
    steps : [n], how many predictions each chunk has; 0 where refused
    outputs : numbers in one prediction; [n] where the sessions' models differ
    predictions : [total], of one chunk after the other, flat
    replayed : indexes of the chunks that had been applied before, ascending
    errors : by index, of the chunks that were refused
    extra_outputs : by name and index, outputs beside the predictions: lower, residuals, scores, ...
    model, ports : of every chunk's session; empty where they may differ
    """

    positions: Ints
    epochs: Epochs
    steps: Ints
    outputs: int | Ints
    predictions: Numbers
    replayed: list[int] = field(default_factory=list)
    errors: dict[int, CarryoverError] = field(default_factory=dict)
    extra_outputs: dict[str, dict[int, Numbers]] = field(default_factory=dict)
    model: str = ""
    ports: tuple[Port, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether all is float32 predictions of one output, and nothing beside them."""
        return not self.extra_outputs and len(self.ports) == 1 and self.predictions.dtype == np.float32

    @property
    def quantiles(self) -> dict[str, dict[int, Numbers]]:
        """The ends of intervals among `extra_outputs`, by quantile, such as 0.05, ascending, and by index."""
        names = [name.removeprefix(QUANTILE) for name in self.extra_outputs if name.startswith(QUANTILE)]
        return {name: self.extra_outputs[QUANTILE + name] for name in sorted(names, key=float)}

    @classmethod
    def of(cls, single: ChunkAnswer) -> BulkAnswer:
        """The answer of one chunk, in columns."""
        outputs = dict(single.answer)
        predictions = outputs.pop("predictions")
        return cls(
            np.array([single.position]),
            np.array([single.epoch], np.uint64),
            np.array([len(predictions)]),
            predictions.shape[1],
            predictions.ravel(),
            [0] if single.replayed else [],
            {},
            {name: {0: numbers} for name, numbers in outputs.items()},
            single.model,
            single.ports,
        )

    def singles(self, sessions: Sequence[str]) -> Iterator[ChunkAnswer]:
        """The answer of each chunk by itself; of chunks of one model that none was refused of.

        Parameters
        ----------
        sessions : the name of each chunk's session
        """
        widths = np.broadcast_to(self.outputs, len(self.steps)).tolist()
        starts = (self.steps * self.outputs).cumsum() - self.steps * self.outputs
        columns = zip(
            sessions, self.positions.tolist(), self.epochs.tolist(), starts.tolist(), self.steps.tolist(),
            widths, strict=True,
        )  # fmt: skip
        for i, (session, position, epoch, start, steps, width) in enumerate(columns):
            answer = {"predictions": self.predictions[start : start + steps * width].reshape(steps, width)}
            answer |= {name: of[i] for name, of in self.extra_outputs.items() if i in of}
            yield ChunkAnswer(session, self.model, position, epoch, i in self.replayed, answer, self.ports)

    def select(self, indexes: Ints) -> BulkAnswer:
        """The answers of the chunks at these indexes, ascending."""
        widths = np.broadcast_to(self.outputs, len(self.steps))
        counts = self.steps * widths
        chosen = indexes.tolist()
        replayed = set(self.replayed)
        return BulkAnswer(
            self.positions[indexes],
            self.epochs[indexes],
            self.steps[indexes],
            self.outputs if isinstance(self.outputs, int) else widths[indexes],
            self.predictions[ranges(counts.cumsum()[indexes] - counts[indexes], counts[indexes])],
            [i for i, index in enumerate(chosen) if index in replayed],
            {i: self.errors[index] for i, index in enumerate(chosen) if index in self.errors},
            {
                name: {i: of[index] for i, index in enumerate(chosen) if index in of}
                for name, of in self.extra_outputs.items()
            },
            self.model,
            self.ports,
        )

    def add_extra_outputs(self, i: int, outputs: Answer) -> None:
        """Add outputs of the chunk at this index."""
        for name, numbers in outputs.items():
            self.extra_outputs.setdefault(name, {})[i] = numbers


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as clients see it.

    level : of the intervals that it wants with every chunk
    errors : [1, outputs], if it keeps its errors
    surprise : of its last observation, if it had a prediction
    rate : samples a second, of a session over samples
    since_reset : observations since it was created or reset
    labels : `name:value` of each
    alert, alert_raised : its own alert, and whether an alert is raised
    last_prediction : [outputs], if it has observed anything
    time : of the last observation, seconds since 1970; None if the session has no timestamps
    created, seen, expires : seconds since 1970; `expires` is None if it never does
    """

    session: str
    model: str
    fingerprint: str
    learning: Learning
    level: float | None
    errors: ErrorStatistics | None
    position: int
    epoch: int
    since_reset: int
    last_prediction: Numbers | None
    time: float | None
    created: float
    seen: float
    expires: float | None
    ttl_seconds: float | None
    labels: Labels = ()
    alert: Alert | None = None
    alert_raised: bool = False
    surprise: float | None = None
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """What a session observed last, oldest first, and what it predicted after each observation.

    first : the session's position before the first of the observations; `position` if there are none
    inputs, targets : names of the numbers of an observation and of a prediction
    observations : [steps, inputs], NaN where a number was missing
    predictions : [steps, outputs]; None of a model of text
    lower, upper : [steps, outputs], the intervals, if any was wanted; NaN where none was
    scores : [steps], the surprise of each observation; None if the session keeps none
    times : [steps], of the observations, seconds since 1970; None if the session has no timestamps
    interval_seconds : from one observation to the next, if the model says so
    pieces : [steps], of a model of text: the text of each token
    """

    session: str
    model: str
    position: int
    epoch: int
    first: int
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    observations: Numbers
    predictions: Numbers | None
    lower: Numbers | None
    upper: Numbers | None
    scores: Numbers | None
    times: Numbers | None
    interval_seconds: float | None
    ports: tuple[Port, ...]
    pieces: tuple[str, ...] | None = None


def ranges(starts: Ints, counts: Ints) -> Ints:
    """The indexes start, start + 1, ... of every range, one range after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    indexes: Ints = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return indexes


def epoch_token(epoch: int) -> str:
    """An epoch as clients see it: 16 hexadecimal digits."""
    return f"{epoch:016x}"


def parse_epoch(text: str) -> int:
    """The epoch of a token; `UNKNOWN_EPOCH` for a text that `epoch_token` cannot have written."""
    return int(text, 16) if EPOCH_TOKEN.fullmatch(text) else UNKNOWN_EPOCH
