"""The values that the client returns: answers, predictions, forecasts, and descriptions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from carryover.observations import all_true, concatenate, following, with_labels
from carryover.tables import (
    POSITION,
    TIME,
    counted,
    facts_html,
    frame,
    output_columns,
    parse_time,
    parse_times,
    quantile_suffix,
    table_html,
    with_intervals,
)

STEP_FIELDS = ("predictions", "outputs", "lower", "upper", "residuals", "scores", "observed", "times")
FORECAST_FIELDS = ("forecast", "forecast_lower", "forecast_upper", "forecast_times")
MAX_NAMES = 8  # of inputs or targets, in a line
TIME_FIELDS = frozenset(("times", "forecast_times"))
SAMPLE_FIELDS = ("covers", "events")
QUANTILE_FIELDS = ("quantiles", "forecast_quantiles")


@dataclass(eq=False, repr=False, slots=True)
class Answer:
    """The answer to one chunk.

    Sequences have the type of the observations: lists, arrays, or pandas objects with the same index.

    session, model : the session's id and its model
    position : observations consumed, including this chunk
    epoch : changes when a session is created again under the same id
    replayed : the chunk had been applied before, and this is its stored answer
    predictions : [steps] or [steps, outputs]; `predictions[t]` predicts what follows observation t; None of a
        model with several outputs
    outputs : of a model with several outputs: by name, [steps, ...] each; else None
    lower, upper : shaped as predictions, the interval around them; None without a `level`
    residuals : shaped as predictions, the observation minus the prediction for it; None without `score`
    scores : [steps], the surprise, from 0 to 1; None without `score`
    observed : [steps, inputs], False for a missing value; None if no value was missing
    forecast, forecast_lower, forecast_upper : [horizon] or [horizon, outputs]; None without a `horizon`
    quantiles : by name, such as "0.05" and "0.95", shaped as predictions; empty without `levels`
    forecast_quantiles : the same, shaped as forecast; empty without `levels` or without a `horizon`
    times : [steps], the time that each prediction is for; None of a session without timestamps
    forecast_times : [horizon], of the forecast
    covers : of a model over samples: the position of the first sample that the predictions, one for each
        frame, are of, and that behind the last; else None
    events : of such a model: {"event": "speech_start" or "speech_end", "sample": position} each; else None
    """

    session: str
    model: str
    position: int
    epoch: str
    replayed: bool
    raw: dict[str, Any]  # by name, lists or arrays: pandas objects are made when a property is read
    labels: Any = None
    columns: tuple[Any, ...] | None = None
    length: int = field(init=False)

    def __post_init__(self) -> None:
        first = (
            self.raw["predictions"] if "predictions" in self.raw else next(iter(self.raw["outputs"].values()))
        )
        self.length = len(first)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Prediction]:
        return (Prediction(self, row) for row in range(self.length))

    def __getitem__(self, row: int) -> Prediction:
        """Return the prediction after one observation; a negative number counts from the end."""
        if not -self.length <= row < self.length:
            raise IndexError(f"the chunk has {counted(self.length, 'observation')}")
        return Prediction(self, row % self.length)

    def __repr__(self) -> str:
        return f"<Answer {self.session!r} at {self.position}: {counted(self.length, 'prediction')}>"

    @property
    def predictions(self) -> Any:
        """See the class."""
        return self._stepwise("predictions")

    @property
    def outputs(self) -> Any:
        """See the class."""
        return self.raw.get("outputs")

    @property
    def covers(self) -> Any:
        """See the class."""
        return self.raw.get("covers")

    @property
    def events(self) -> Any:
        """See the class."""
        return self.raw.get("events")

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

    @property
    def quantiles(self) -> dict[str, Any]:
        """See the class."""
        return {name: self._labelled(ends) for name, ends in self.raw.get("quantiles", {}).items()}

    @property
    def forecast_quantiles(self) -> dict[str, Any]:
        """See the class."""
        return dict(self.raw.get("forecast_quantiles", {}))

    @property
    def times(self) -> list[Any] | None:
        """See the class."""
        return parse_times(self.raw.get("times"))

    @property
    def forecast_times(self) -> list[Any] | None:
        """See the class."""
        return parse_times(self.raw.get("forecast_times"))

    def to_frame(self, library: str = "pandas") -> Any:
        """Return the predictions as a DataFrame, with their intervals if there are any.

        The ends of the interval of each of the `levels` are columns such as `prediction-lo-90` and
        `prediction-hi-90`.

        Its index is the time that each prediction is for, if the session has timestamps, or if the
        observations were labelled with times. Otherwise it is the position that the prediction is for: that
        of the observation before it, and one.

        Parameters
        ----------
        library : pandas or polars
        """
        return frame(self._columns(), *self._index(), library)

    def _repr_html_(self) -> str:
        index, name = self._index()
        return table_html(
            f"{counted(self.length, 'prediction')} of session {self.session}", index, name, self._columns()
        )

    def _columns(self) -> dict[str, list[Any]]:
        raw = self.raw
        numbers = raw["predictions"] if "predictions" in raw else raw["outputs"]
        columns = with_intervals(numbers, raw.get("lower"), raw.get("upper"), self.columns, "prediction")
        for name, ends in raw.get("quantiles", {}).items():
            columns |= output_columns(ends, self.columns, "prediction", quantile_suffix(float(name)))
        return columns

    def _index(self) -> tuple[Any, str]:
        """What each prediction is for: its time or its position; and which of them."""
        if self.times is not None:
            return self.times, TIME
        if (
            self.length > 1
            and getattr(self.labels, "dtype", None) is not None
            and self.labels.dtype.kind == "M"
        ):
            return following(self.labels), TIME
        return range(self.position - self.length + 2, self.position + 2), POSITION

    def _stepwise(self, name: str) -> Any:
        return self._labelled(self.raw.get(name))

    def _labelled(self, numbers: Any) -> Any:
        if numbers is None or self.labels is None:
            return numbers
        return with_labels(numbers, self.labels, self.columns)


class Prediction:
    """The prediction of what follows one observation: a view of its chunk's answer."""

    __slots__ = ("_row", "answer")

    def __init__(self, answer: Answer, row: int) -> None:
        self.answer = answer
        self._row = row

    @property
    def value(self) -> Any:
        """The predicted number; a row of numbers if the observations were rows.

        Of a model with several outputs, a dictionary of them.
        """
        if "outputs" in self.answer.raw:
            return {name: steps[self._row] for name, steps in self.answer.raw["outputs"].items()}
        return self.answer.raw["predictions"][self._row]

    @property
    def position(self) -> int:
        """Observations consumed, including this one; of samples, those up to the end of the frame."""
        if self.answer.covers is not None:
            first, stop = self.answer.covers
            return int(first + (stop - first) * (self._row + 1) // self.answer.length)
        return self.answer.position - self.answer.length + self._row + 1

    @property
    def label(self) -> Any:
        """The observation's label in its pandas index; None without an index."""
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
    def quantiles(self) -> dict[str, Any]:
        """By name, such as "0.05" and "0.95", the ends of intervals; empty without `levels`."""
        quantiles = self.answer.raw.get("quantiles", {})
        return {name: ends[self._row] for name, ends in quantiles.items()}

    @property
    def residual(self) -> Any:
        """The observation minus the prediction for it; None without `score`."""
        return self._at("residuals")

    @property
    def score(self) -> Any:
        """The surprise of the observation, 0 to 1; None without `score`."""
        return self._at("scores")

    def __float__(self) -> float:
        """The predicted number of a model with one output."""
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
    """Predictions for the steps after `position`, each made by feeding the one before back in.

    values : [steps] or [steps, outputs]; an array if NumPy is installed
    lower, upper : shaped as values, the interval around them; None without a `level`
    times : [steps], the time of each step; None of a session without timestamps
    quantiles : by name, such as "0.05" and "0.95", shaped as values; empty without `levels`
    """

    __slots__ = ("lower", "model", "position", "quantiles", "session", "times", "upper", "values")

    def __init__(
        self,
        session: str,
        model: str,
        position: int,
        values: Any,
        lower: Any = None,
        upper: Any = None,
        times: list[datetime | None] | None = None,
        quantiles: Mapping[str, Any] | None = None,
    ) -> None:
        self.session = session
        self.model = model
        self.position = position
        self.quantiles = quantiles or {}
        self.values = values
        self.lower = lower
        self.upper = upper
        self.times = times

    def __len__(self) -> int:
        if isinstance(self.values, dict):
            return len(next(iter(self.values.values())))
        return len(self.values)

    def to_frame(self, library: str = "pandas") -> Any:
        """Return the forecast as a DataFrame, with its intervals if it has any.

        The ends of the interval of each of the `levels` are columns such as `forecast-lo-90` and
        `forecast-hi-90`.

        Its index is the time of each step, or the position if the session has no timestamps.

        Parameters
        ----------
        library : pandas or polars
        """
        return frame(self._columns(), *self._index(), library)

    def _repr_html_(self) -> str:
        index, name = self._index()
        title = f"Forecast of session {self.session} from position {self.position}"
        return table_html(title, index, name, self._columns())

    def _columns(self) -> dict[str, list[Any]]:
        columns = with_intervals(self.values, self.lower, self.upper, None, "forecast")
        for name, ends in self.quantiles.items():
            columns |= output_columns(ends, None, "forecast", quantile_suffix(float(name)))
        return columns

    def _index(self) -> tuple[Any, str]:
        if self.times is not None:
            return self.times, TIME
        return range(self.position + 1, self.position + len(self) + 1), POSITION

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, step: Any) -> Any:
        return self.values[step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.values, dtype) if copy is not False else np.asarray(self.values, dtype)

    def __repr__(self) -> str:
        return f"<Forecast {self.session!r} from {self.position}: {counted(len(self), 'step')}>"


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What a session observed last, oldest first, and what it predicted after each observation.

    position : of the session; the last observation has this position
    first : the position before the first observation; the server has forgotten what came earlier
    inputs, targets : names of the numbers of an observation and of a prediction
    observations : [steps, inputs], NaN where a number was missing
    predictions
        [steps, outputs] of what follows each observation; None of a model with several outputs, and of text
    outputs : of a model with several outputs: by name, [steps, ...] each; else None
    pieces : [steps], of a model of text: the text of each token
    lower, upper : [steps, outputs], the intervals; None if none was asked for
    scores : [steps], the surprise, from 0 to 1; None if the session keeps no errors
    times, predicted_times : [steps], of the observations and of what is predicted; None without timestamps
    """

    session: str
    model: str
    position: int
    first: int
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    observations: Any
    predictions: Any = None
    outputs: Mapping[str, Any] | None = None
    lower: Any = None
    upper: Any = None
    scores: Any = None
    times: list[datetime | None] | None = None
    predicted_times: list[datetime | None] | None = None
    pieces: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        length = counted(len(self), "observation")
        return f"<History {self.session!r}: {length} from {self.first} to {self.position}>"

    def to_frame(self, library: str = "pandas") -> Any:
        """Return a DataFrame with a row for each time: what was observed then, and what was predicted for it.

        Its index is the time, or the position if the session has no timestamps. The first row has no
        prediction, and the last row has no observation yet. Of a model of text there are the tokens and
        their `pieces` only, a row for each. The columns are the inputs, the targets with
        `_predicted`, `_lower` and `_upper` behind their names, and `score`, the surprise.

        Parameters
        ----------
        library : pandas or polars
        """
        return frame(self._columns(), *self._index(), library)

    def _repr_html_(self) -> str:
        index, name = self._index()
        return table_html(f"The last observations of session {self.session}", index, name, self._columns())

    def _columns(self) -> dict[str, list[Any]]:
        if not len(self):
            return {name: [] for name in self.inputs}
        observed = output_columns(self.observations, self.inputs, "observation")
        if self.pieces is not None:
            return {**observed, "pieces": list(self.pieces)}
        if self.scores is not None:
            observed["score_2" if "score" in observed else "score"] = list(self.scores)
        numbers = self.outputs if self.predictions is None else self.predictions
        predicted = with_intervals(numbers, self.lower, self.upper, self.targets, "output", "_predicted")
        missing = float("nan")
        columns = {name: [*column, missing] for name, column in observed.items()}
        columns |= {name: [missing, *column] for name, column in predicted.items()}
        return columns

    def _index(self) -> tuple[Any, str]:
        if self.times is not None and self.predicted_times is not None:
            return [*self.times, *self.predicted_times[-1:]], TIME
        if self.pieces is not None:
            return range(self.first + 1, self.position + 1), POSITION
        return range(self.first + 1, self.position + 2) if len(self) else range(0), POSITION


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server describes it. `more` holds fields that this client does not know.

    rate : samples a second, of a session over samples
    """

    session: str
    model: str
    position: int
    epoch: str
    fingerprint: str = ""
    observations_since_reset: int = 0
    last_prediction: list[float] | None = None
    time: datetime | None = None
    created: datetime | None = None
    updated: datetime | None = None
    expires: datetime | None = None
    ttl_seconds: float | None = None
    level: float | None = None
    learning: Mapping[str, Any] | None = None
    errors: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    surprise: float | None = None
    rate: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """A model as the server describes it. `more` holds fields that this client does not know.

    inputs : all columns of an observation; those made from times (`time_inputs`) are the last
    future : inputs that are known ahead, which a forecast needs
    time_features : what the server makes inputs of from the time of an observation
    """

    name: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    units: tuple[str | None, ...]
    fingerprint: str = ""
    default: bool = False
    can_forecast: bool = True
    future: tuple[str, ...] = ()
    time_features: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def time_inputs(self) -> tuple[str, ...]:
        """Inputs that the server makes from the time of an observation: a sine and a cosine each."""
        return self.inputs[len(self.inputs) - 2 * len(self.time_features) :]

    def __repr__(self) -> str:
        return f"<ModelInfo {self.name!r}: {_names(self.inputs)} -> {_names(self.targets)}>"

    def _repr_html_(self) -> str:
        inputs = [
            name if unit is None else f"{name} ({unit})"
            for name, unit in itertools.zip_longest(self.inputs, self.units)
        ]
        facts = {
            "inputs": _names(inputs),
            "targets": _names(self.targets),
            "can forecast": self.can_forecast,
            "default": self.default,
            "fingerprint": self.fingerprint[:12],
            **{name: value for name, value in self.metrics.items() if isinstance(value, int | float | str)},
        }
        return facts_html(f"Model {self.name}", facts)


def session_info(payload: Mapping[str, Any]) -> SessionInfo:
    """Parse the answer of `GET /sessions/{id}`."""
    known = {field.name for field in fields(SessionInfo)} - {"more"}
    times = {name: _time(payload.get(name)) for name in ("time", "created", "updated", "expires")}
    given = {name: value for name, value in payload.items() if name in known} | times
    return SessionInfo(**given, more={name: value for name, value in payload.items() if name not in known})


def model_info(payload: Mapping[str, Any]) -> ModelInfo:
    """Parse the answer of `GET /models/{name}`."""
    known = {field.name for field in fields(ModelInfo)} - {"more", "units"}
    given = {name: value for name, value in payload.items() if name in known} | {
        "inputs": tuple(column["name"] for column in payload["inputs"]),
        "targets": tuple(payload["targets"]),
        "future": tuple(payload.get("future") or ()),
        "time_features": tuple(payload.get("time_features") or ()),
        "units": tuple(column.get("unit") for column in payload["inputs"]),
    }
    return ModelInfo(**given, more={name: value for name, value in payload.items() if name not in known})


def concatenate_answers(answers: list[Answer]) -> Answer:
    """Join the answers of consecutive chunks into one; the forecast is that of the last chunk.

    Raises
    ------
    ValueError : there are no answers
    """
    if not answers:
        raise ValueError("there were no observations")
    last = answers[-1]
    raw = {name: last.raw[name] for name in (*FORECAST_FIELDS, "forecast_quantiles") if name in last.raw}
    for name in STEP_FIELDS:
        if all(name in answer.raw for answer in answers):
            raw[name] = concatenate([answer.raw[name] for answer in answers])
    observed = [answer.raw.get("observed") for answer in answers]
    sample = next((part for part in observed if part is not None), None)
    if sample is not None:  # a chunk without a missing value says nothing of it
        raw["observed"] = concatenate(
            [
                all_true(sample, len(answer)) if part is None else part
                for part, answer in zip(observed, answers, strict=True)
            ]
        )
    if last.quantiles:
        names = last.raw["quantiles"]
        raw["quantiles"] = {
            name: concatenate([answer.raw["quantiles"][name] for answer in answers]) for name in names
        }
    if last.covers is not None:
        raw["covers"] = [answers[0].covers[0], last.covers[1]]
        raw["events"] = [event for answer in answers for event in answer.events or ()]
    labels = None
    if last.labels is not None:
        labels = answers[0].labels.append([answer.labels for answer in answers[1:]])
    replayed = any(answer.replayed for answer in answers)
    return Answer(last.session, last.model, last.position, last.epoch, replayed, raw, labels, last.columns)


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _names(names: Sequence[str]) -> str:
    """The names in a row; of many only the first."""
    return ", ".join(names[:MAX_NAMES]) + ", ..." * (len(names) > MAX_NAMES)
