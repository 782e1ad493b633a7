"""Chunks in JSON: decoded and checked.

`msgspec` decodes a chunk. It is strict about types and accepts no NaN. A body that it or NumPy refuses is
read a second time, slowly, to name the row and the column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

import msgspec
import numpy as np

from app.codec.body_errors import (
    decode_error,
    float32_range_error,
    invalid_number_error,
    looks_like_csv,
    ragged_rows_error,
    too_many_observations_error,
)
from app.codec.limits import (
    BYTE_ORDER_MARK,
    DECODE_ERRORS,
    MAX_EXACT_FLOAT32,
    MAX_FLOAT32,
    MAX_POSITION,
    MAX_RATE,
    MAX_TIMESTAMP,
    SMALL_BODY_BYTES,
    AnyDecodeError,
    Limits,
    validate_model_name,
)
from app.errors import Malformed, TooLarge, Unprocessable
from app.jobs.answers import parse_epoch
from app.jobs.options import ChunkOptions
from app.session.notes import parse_labels
from models.arrays import Doubles, Floats, Numbers, Seconds
from models.artifact.learning import MAX_LEVELS

T = TypeVar("T")

Rows = list[float | list[float]]
GappedRows = list[float | list[float | None] | None]  # null: not observed


class ChunkFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that a chunk may have beside its numbers, in a body or in a message."""

    at: int | None = None
    epoch: str | None = None
    horizon: int | None = None
    model: str | None = None
    level: float | None = None
    levels: list[float] | None = None
    score: bool = False
    skip: int | None = None
    timestamps: list[float | str] | None = None
    future: list[float | list[float]] | None = None
    inputs: dict[str, list[Any]] | None = None
    labels: dict[str, str] | None = None
    rate: int | None = None

    @property
    def has_options(self) -> bool:
        """Whether any of the rare fields is present."""
        return (
            self.inputs is not None
            or self.level is not None
            or bool(self.levels)
            or self.score
            or self.skip is not None
            or self.timestamps is not None
            or self.future is not None
            or bool(self.labels)
            or self.rate is not None
        )


class ChunkBody(ChunkFields, kw_only=True):
    """The body of `POST /sessions/{id}/observations`."""

    observations: Rows | None = None


class GappedBody(ChunkFields, kw_only=True):
    """The same body, with nulls among the observations."""

    observations: GappedRows | None = None


_decode_chunk = msgspec.json.Decoder(ChunkBody).decode
_decode_gapped = msgspec.json.Decoder(GappedBody).decode


class Chunk(msgspec.Struct, eq=False):
    """A chunk, decoded and checked. A `Struct` because a dataclass takes twice as long to construct.

    observations : [steps, inputs], finite in float32; NaN where `options.gaps` allows it; of width 0 where
        the numbers are in `options`
    flat : the numbers came as a flat list, and are answered as a flat list
    """

    observations: Numbers
    flat: bool
    at: int | None
    epoch: int | None
    horizon: int
    model: str | None
    options: ChunkOptions | None = None


def decode_chunk(body: bytes, limits: Limits) -> Chunk:
    """The chunk in a body of `POST /sessions/{id}/observations`.

    Raises
    ------
    Malformed : not JSON, or not an object of these fields
    Unprocessable : a wrong shape, a non-number, an infinity, an empty chunk; names the row and column
    TooLarge : more observations than the limit
    """
    check_size(body, limits)
    try:
        fields = _decode_chunk(body)
    except DECODE_ERRORS as error:
        if looks_like_csv(body):
            raise Malformed("the body is not JSON; for CSV, send Content-Type: text/csv") from None
        gapped = decode_with_gaps(body, error, _decode_gapped)
        return validate_chunk(gapped.observations, gapped, limits, gaps=True)
    return validate_chunk(fields.observations, fields, limits)


def decode_with_gaps(body: bytes, error: AnyDecodeError, gapped: Callable[[bytes], T]) -> T:
    """Decode a body again, this time with nulls allowed among its numbers.

    Parameters
    ----------
    error : why the body did not decode without nulls

    Raises
    ------
    Malformed, Unprocessable : the nulls were not the only error
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        return gapped(body)
    except DECODE_ERRORS as other:
        # If the first error was a null, the second error says what is really wrong.
        raise decode_error(body, other if "`null`" in str(error) else error) from None


def validate_chunk(
    rows: Rows | GappedRows | None, fields: ChunkFields, limits: Limits, *, gaps: bool = False
) -> Chunk:
    """The chunk of these fields.

    Parameters
    ----------
    gaps : nulls are allowed among the numbers

    Raises
    ------
    Unprocessable, TooLarge : as `decode_chunk`
    """
    options, named = None, None
    observations: Numbers
    if fields.inputs is not None:
        if rows is not None or fields.skip is not None:
            raise Unprocessable(
                "a chunk has observations, inputs or skip, and only one of them", field="inputs"
            )
        named = parse_inputs(fields.inputs, limits)
        observations, flat = np.empty((len(next(iter(named.values()))), 0), np.float32), False
    elif rows is None:
        observations, flat = _skipped(fields.skip, limits), False
    elif fields.skip is not None:
        raise Unprocessable("a chunk has observations or skip, not both", field="skip")
    elif len(rows) > limits.observations:
        raise too_many_observations_error(limits, str(len(rows)))
    else:
        observations, flat = parse_observations(rows, gaps=gaps)
    if fields.model is not None:
        validate_model_name(fields.model)
    at, epoch = validate_position(fields.at), None if fields.epoch is None else parse_epoch(fields.epoch)
    horizon = validate_horizon(fields.horizon or 0, limits)
    gaps = (rows is None and named is None) or (gaps and bool(np.isnan(observations).any()))
    if gaps or fields.has_options:
        if fields.future is not None and not horizon:
            raise Unprocessable("future needs a horizon: it is the input of a forecast", field="future")
        options = ChunkOptions(
            fields.level,
            fields.score,
            gaps,
            None if fields.timestamps is None else parse_timestamps(fields.timestamps),
            None if fields.future is None else parse_future(fields.future),
            named,
            parse_labels(fields.labels or {}),
            validate_rate(fields.rate),
            validate_levels(fields.levels or []),
        )
    return Chunk(observations, flat, at, epoch, horizon, fields.model, options)


def check_size(body: bytes, limits: Limits) -> None:
    """Refuse a body with far too many numbers before it is parsed, because parsing blocks the event loop.

    Raises
    ------
    TooLarge
    """
    if len(body) > SMALL_BODY_BYTES:
        rows = limits.observations + limits.steps * (b'"future"' in body)
        rows_of_times = limits.observations * (b'"timestamps"' in body)
        if body.count(b",") > rows * limits.inputs + rows_of_times + 16:
            raise too_many_observations_error(limits, "more")


def check_observations(observations: Numbers, limits: Limits, *, gaps: bool = False) -> None:
    """Refuse a chunk of raw numbers that is empty, too long or not finite.

    Parameters
    ----------
    observations : [steps, inputs]
    gaps : NaN is allowed and means not observed

    Raises
    ------
    Unprocessable : empty or not finite; names the row and the column
    TooLarge : more observations than the limit
    """
    if not len(observations):
        raise Unprocessable("the chunk is empty: it needs at least one observation")
    if len(observations) > limits.observations:
        raise too_many_observations_error(limits, str(len(observations)))
    finite = ~np.isinf(observations) if gaps else np.isfinite(observations)
    if not finite.all():
        row, column = divmod(int(finite.argmin()), observations.shape[1])
        number = float(observations[row, column])
        raise invalid_number_error(row, column, f"is {number}, which is not a finite number")


def validate_position(at: int | None) -> int | None:
    """Return `at` unchanged.

    Raises
    ------
    Unprocessable : not a position, 0 to 2**63 - 1
    """
    if at is not None and not 0 <= at <= MAX_POSITION:
        raise Unprocessable(f"at must be 0 to {MAX_POSITION}, not {at}", field="at")
    return at


def validate_horizon(horizon: int, limits: Limits) -> int:
    """Return the length of a forecast unchanged; 0 is no forecast.

    Raises
    ------
    Unprocessable : over the limit
    """
    if not 0 <= horizon <= limits.steps:
        raise Unprocessable(f"horizon must be 0 to {limits.steps}, not {horizon}", field="horizon")
    return horizon


def validate_rate(rate: int | None) -> int | None:
    """Return a sampling rate unchanged; which of them a network takes is checked when it is known.

    Raises
    ------
    Unprocessable : not 1 to 2**32 - 1
    """
    if rate is not None and not 1 <= rate <= MAX_RATE:
        raise Unprocessable(f"rate must be 1 to {MAX_RATE}, not {rate}", field="rate")
    return rate


def validate_levels(levels: list[float]) -> tuple[float, ...]:
    """Return levels of intervals; which of them the session keeps is checked when it is known.

    Raises
    ------
    Unprocessable : too many, or one that is not between 0 and 1
    """
    if len(levels) > MAX_LEVELS:
        raise Unprocessable(f"levels has {len(levels)} levels; the most is {MAX_LEVELS}", field="levels")
    for level in levels:
        if not 0 < level < 1:
            raise Unprocessable(f"levels must be between 0 and 1, not {level:g}", field="levels")
    return tuple(levels)


def parse_future(rows: list[Any]) -> Numbers:
    """The inputs of a forecast that are known ahead; a bare number is a row of one input.

    Returns
    -------
    [steps, inputs known ahead]

    Raises
    ------
    Unprocessable : names the row and the column
    """
    if not rows:
        raise Unprocessable("future is empty: it needs a row for each step of the forecast", field="future")
    try:
        return parse_observations(rows)[0]
    except Unprocessable as error:
        raise Unprocessable(f"future: {error.detail}", **(error.extra | {"field": "future"})) from None


def parse_inputs(inputs: dict[str, list[Any]], limits: Limits) -> dict[str, Numbers]:
    """The numbers of several inputs, by their names.

    Returns
    -------
    [steps, ...] each, finite in float32; their shapes are checked when the model is known

    Raises
    ------
    Unprocessable : names the input
    TooLarge : more observations than the limit
    """
    if not inputs:
        raise Unprocessable("inputs is empty: it needs the numbers of each input", field="inputs")
    return check_inputs({name: _tensor(name, rows) for name, rows in inputs.items()}, limits)


def check_inputs(arrays: dict[str, Numbers], limits: Limits) -> dict[str, Numbers]:
    """The numbers of several inputs, [steps, ...] each, if there are as many steps of each.

    Raises
    ------
    Unprocessable : names the input
    TooLarge : more observations than the limit
    """
    first, steps = next((name, len(array)) for name, array in arrays.items())
    if not steps:
        raise Unprocessable("the chunk is empty: it needs at least one observation", field="inputs")
    if steps > limits.observations:
        raise too_many_observations_error(limits, str(steps))
    for name, array in arrays.items():
        if len(array) != steps:
            raise Unprocessable(
                f"inputs.{name[:80]} has {len(array)} observations, inputs.{first[:80]} has {steps}",
                field="inputs",
            )
    return arrays


def _tensor(name: str, rows: list[Any]) -> Doubles:
    """Nested lists of numbers, or of true and false, as [steps, ...]."""
    try:
        array = np.array(rows)
    except ValueError:
        raise Unprocessable(f"inputs.{name[:80]} has rows that differ in shape", field="inputs") from None
    if array.size and array.dtype.kind not in "biuf":
        raise Unprocessable(f"inputs.{name[:80]} has a value that is not a number", field="inputs")
    numbers = array.astype(np.float64)
    if (np.abs(numbers) > MAX_FLOAT32).any():
        raise Unprocessable(f"inputs.{name[:80]} has a number that is not a finite float32", field="inputs")
    return numbers


def parse_timestamps(timestamps: Sequence[float | str]) -> Seconds:
    """Seconds since 1970 of times in RFC 3339 or already in seconds; a time without an offset is UTC.

    Returns
    -------
    [steps]

    Raises
    ------
    Unprocessable : names the row
    """
    seconds = []
    for row, timestamp in enumerate(timestamps):
        try:
            value = _epoch_seconds(timestamp) if isinstance(timestamp, str) else float(timestamp)
        except ValueError:
            raise Unprocessable(
                f"timestamps[{row}] is not a time in RFC 3339: {timestamp!r:.40}", row=row
            ) from None
        if not abs(value) < MAX_TIMESTAMP:
            raise Unprocessable(f"timestamps[{row}] is beyond the year 5000: {timestamp!r:.40}", row=row)
        seconds.append(value)
    return np.array(seconds, np.float64)


def _epoch_seconds(text: str) -> float:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _skipped(count: int | None, limits: Limits) -> Floats:
    """Observations that are missing whole, [count, 0]: their width, the model's, is not known here."""
    if count is None:
        raise Unprocessable("the chunk has no observations", field="observations")
    if count < 1:
        raise Unprocessable(f"skip must be at least 1, not {count}", field="skip")
    if count > limits.observations:
        raise TooLarge(
            f"skip is at most {limits.observations}, not {count}", field="skip", limit=limits.observations
        )
    return np.empty((count, 0), np.float32)


def parse_observations(rows: Sequence[Any], *, gaps: bool = False) -> tuple[Numbers, bool]:
    """Decoded rows as an array.

    Parameters
    ----------
    rows : lists of numbers, or bare numbers
    gaps : nulls may be among the numbers

    Returns
    -------
    observations : [steps, inputs], finite in float32, NaN for null; float32 unless a number is beyond 2**24
    flat : the rows were bare numbers

    Raises
    ------
    Unprocessable : names the row and the column
    """
    if not rows:
        raise Unprocessable("the chunk is empty: it needs at least one observation")
    if len(rows) == 1 and not gaps:  # the most frequent chunk: comparisons are faster than array operations
        first = rows[0]
        flat = not isinstance(first, list)
        numbers = first if isinstance(first, list) else rows
        if numbers and min(numbers) >= -MAX_EXACT_FLOAT32 and max(numbers) <= MAX_EXACT_FLOAT32:
            return np.array([numbers], np.float32), flat
    try:
        exact = _matrix(rows)
    except (ValueError, TypeError):
        raise ragged_rows_error(rows) from None
    if exact.size == 0:
        raise Unprocessable("row 0 is empty: an observation needs at least one number", row=0)
    flat = exact.ndim == 1
    rows_of_numbers = exact[:, None] if flat else exact
    # The decoders refuse NaN, so a NaN here was a null.
    if (np.abs(exact) > MAX_EXACT_FLOAT32).any():
        if (np.abs(exact) > MAX_FLOAT32).any():
            raise float32_range_error(exact)
        return rows_of_numbers, flat
    return rows_of_numbers.astype(np.float32), flat


def _matrix(rows: Sequence[Any]) -> Doubles:
    """Rows of one width as [steps, inputs], bare numbers as [steps].

    The rows are chained first: NumPy converts one flat list faster than a list of lists.

    Raises
    ------
    ValueError, TypeError : neither rows of one width nor numbers
    """
    first = rows[0]
    if not isinstance(first, list):
        return np.array(rows, np.float64)
    width = len(first)
    if set(map(len, rows)) != {width}:
        raise ValueError("the rows differ in width")
    flat = list(chain.from_iterable(rows))
    return np.array(flat, np.float64).reshape(len(rows), width)
