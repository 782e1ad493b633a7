"""What the server answers, as values: an `Answer` a chunk, a `Prediction` an observation, a `Forecast`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from carryover.numbers import joined, labelled

STEPWISE = ("predictions", "lower", "upper", "residuals", "scores", "observed")
AHEAD = ("forecast", "forecast_lower", "forecast_upper")


class Answer:
    """A chunk applied.

    Sequences are in the kind that the observations came in: lists, arrays, or pandas on the same index.

    session, model : whose it is
    position : observations consumed, this chunk's included
    epoch : which incarnation of the session it was
    replayed : the chunk had been applied already; a retry was answered from what was stored
    predictions : [steps] or [steps, outputs]; `predictions[t]` is of what follows observation t
    lower, upper : as predictions, the interval around them; None without a `level`
    residuals : as predictions, observed minus the prediction the session had made; None without `score`
    scores : [steps], surprise from 0 to 1; None without `score`
    observed : [steps, inputs], False where an observation was missing; None when none was
    forecast, forecast_lower, forecast_upper : [horizon] or [horizon, outputs]; None without a `horizon`
    """

    __slots__ = ("columns", "epoch", "labels", "length", "model", "position", "raw", "replayed", "session")

    def __init__(
        self,
        session: str,
        model: str,
        position: int,
        epoch: str,
        replayed: bool,
        raw: dict[str, Any],
        labels: Any = None,
        columns: tuple[Any, ...] | None = None,
    ) -> None:
        self.session = session
        self.model = model
        self.position = position
        self.epoch = epoch
        self.replayed = replayed
        self.raw = raw  # by name, never pandas: that is made when somebody looks
        self.labels = labels
        self.columns = columns
        self.length = len(raw["predictions"])

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Prediction]:
        return (Prediction(self, row) for row in range(self.length))

    def __getitem__(self, row: int) -> Prediction:
        """One observation's prediction; negative counts from the end."""
        if not -self.length <= row < self.length:
            raise IndexError(f"the chunk has {self.length} observations")
        return Prediction(self, row % self.length)

    def __repr__(self) -> str:
        return f"<Answer {self.session!r} at {self.position}: {self.length} predictions>"

    @property
    def predictions(self) -> Any:
        """See the class."""
        return self._stepwise("predictions")

    @property
    def lower(self) -> Any:
        """See the class."""
        return self._stepwise("lower")

    @property
    def upper(self) -> Any:
        """See the class."""
        return self._stepwise("upper")

    @property
    def residuals(self) -> Any:
        """See the class."""
        return self._stepwise("residuals")

    @property
    def scores(self) -> Any:
        """See the class."""
        return self._stepwise("scores")

    @property
    def observed(self) -> Any:
        """See the class."""
        return self.raw.get("observed")

    @property
    def forecast(self) -> Any:
        """See the class."""
        return self.raw.get("forecast")

    @property
    def forecast_lower(self) -> Any:
        """See the class."""
        return self.raw.get("forecast_lower")

    @property
    def forecast_upper(self) -> Any:
        """See the class."""
        return self.raw.get("forecast_upper")

    def _stepwise(self, name: str) -> Any:
        numbers = self.raw.get(name)
        if numbers is None or self.labels is None:
            return numbers
        return labelled(numbers, self.labels, self.columns)


class Prediction:
    """What follows one observation. A view of its chunk's answer: to make one costs next to nothing."""

    __slots__ = ("_row", "answer")

    def __init__(self, answer: Answer, row: int) -> None:
        self.answer = answer
        self._row = row

    @property
    def value(self) -> Any:
        """The predicted number; a row of them for rows."""
        return self.answer.raw["predictions"][self._row]

    @property
    def position(self) -> int:
        """Observations consumed up to this one, this one included."""
        return self.answer.position - self.answer.length + self._row + 1

    @property
    def label(self) -> Any:
        """Of the observation, in its pandas index; without one, None."""
        return None if self.answer.labels is None else self.answer.labels[self._row]

    @property
    def lower(self) -> Any:
        """The interval's lower end; None without a `level`."""
        return self._at("lower")

    @property
    def upper(self) -> Any:
        """The interval's upper end; None without a `level`."""
        return self._at("upper")

    @property
    def residual(self) -> Any:
        """The observation minus what had been predicted for it; None without `score`."""
        return self._at("residuals")

    @property
    def score(self) -> Any:
        """How surprising the observation was, 0 to 1; None without `score`."""
        return self._at("scores")

    def __float__(self) -> float:
        """The number, of a model with one output."""
        value = self.value
        return float(value if not hasattr(value, "__len__") or len(value) > 1 else value[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.value, dtype) if copy is not False else np.asarray(self.value, dtype)

    def __repr__(self) -> str:
        return f"<Prediction at {self.position}: {self.value}>"

    def _at(self, name: str) -> Any:
        numbers = self.answer.raw.get(name)
        return None if numbers is None else numbers[self._row]


class Forecast:
    """Predictions fed back in, for many steps ahead of `position`; the session did not move.

    values : [steps] or [steps, outputs], an array where NumPy is installed
    lower, upper : likewise; None without a `level`
    """

    __slots__ = ("lower", "model", "position", "session", "upper", "values")

    def __init__(
        self, session: str, model: str, position: int, values: Any, lower: Any = None, upper: Any = None
    ) -> None:
        self.session = session
        self.model = model
        self.position = position
        self.values = values
        self.lower = lower
        self.upper = upper

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, step: Any) -> Any:
        return self.values[step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.values, dtype) if copy is not False else np.asarray(self.values, dtype)

    def __repr__(self) -> str:
        return f"<Forecast {self.session!r} behind {self.position}: {len(self)} steps>"


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server describes it. `more` holds what this client has no name for."""

    session: str
    model: str
    position: int
    epoch: str
    fingerprint: str = ""
    observations_since_reset: int = 0
    last_prediction: list[float] | None = None
    created: datetime | None = None
    updated: datetime | None = None
    expires: datetime | None = None
    ttl_seconds: float | None = None
    level: float | None = None
    learning: Mapping[str, Any] | None = None
    errors: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """A model as the server describes it. `more` holds what this client has no name for."""

    name: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    units: tuple[str | None, ...]
    fingerprint: str = ""
    default: bool = False
    can_forecast: bool = True
    metrics: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def session_info(told: Mapping[str, Any]) -> SessionInfo:
    """What `GET /sessions/{id}` says."""
    known = {one.name for one in fields(SessionInfo)} - {"more"}
    times = {name: _time(told.get(name)) for name in ("created", "updated", "expires")}
    given = {name: value for name, value in told.items() if name in known} | times
    return SessionInfo(**given, more={name: value for name, value in told.items() if name not in known})


def model_info(told: Mapping[str, Any]) -> ModelInfo:
    """What `GET /models/{name}` says."""
    known = {one.name for one in fields(ModelInfo)} - {"more", "units"}
    given = {name: value for name, value in told.items() if name in known} | {
        "inputs": tuple(column["name"] for column in told["inputs"]),
        "targets": tuple(told["targets"]),
        "units": tuple(column.get("unit") for column in told["inputs"]),
    }
    return ModelInfo(**given, more={name: value for name, value in told.items() if name not in known})


def gathered(answers: list[Answer]) -> Answer:
    """One answer for many chunks in a row; the forecast is the last one's.

    Raises
    ------
    ValueError : there are none
    """
    if not answers:
        raise ValueError("there were no observations")
    last = answers[-1]
    raw = {name: last.raw[name] for name in AHEAD if name in last.raw}
    for name in STEPWISE:
        if all(name in one.raw for one in answers):
            raw[name] = joined([one.raw[name] for one in answers])
    labels = (
        last.labels if last.labels is None else answers[0].labels.append([one.labels for one in answers[1:]])
    )
    replayed = any(one.replayed for one in answers)
    return Answer(last.session, last.model, last.position, last.epoch, replayed, raw, labels, last.columns)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
