"""Request and response shapes of the data: bytes in, values out; answers in, bytes out. No state.

A chunk is decoded by `msgspec`, which is strict about types and knows no NaN; whatever it or NumPy
refuses is looked at a second time, slowly, to name the row and the column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from app.errors import Malformed, TooLarge, Unprocessable
from app.jobs.answers import Advanced, SessionView, epoch_of, token
from app.jobs.options import Extras, Seconds
from app.session.names import shown
from app.session.rows import Floats
from models.adaptation.learner import Errors

T = TypeVar("T")

SESSION_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}", re.ASCII)
FURTHEST = 2**63 - 1  # no position is beyond it
LATEST = 95_617_584_000.0  # seconds since 1970: the year 5000
SMALL_BODY = 65_536
LARGEST = float(np.finfo(np.float32).max)
# What decoding raises: the second for a text that is not UTF-8, the third for one of a thousand brackets.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Undecodable = msgspec.DecodeError | UnicodeDecodeError | RecursionError


Rows = list[float | list[float]]
GappedRows = list[float | list[float | None] | None]  # null: not observed


class Besides(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a chunk may say besides its numbers, in a body or in a message."""

    at: int | None = None
    epoch: str | None = None
    horizon: int | None = None
    model: str | None = None
    level: float | None = None
    score: bool = False
    skip: int | None = None
    timestamps: list[float | str] | None = None
    future: list[float | list[float]] | None = None

    @property
    def more(self) -> bool:
        """Whether any of what is rarely said is said."""
        return (
            self.level is not None
            or self.score
            or self.skip is not None
            or self.timestamps is not None
            or self.future is not None
        )


class ChunkBody(Besides, kw_only=True):
    """The body of `POST /sessions/{id}/observations`."""

    observations: Rows | None = None


class GappedBody(Besides, kw_only=True):
    """The same where observations are missing."""

    observations: GappedRows


_decode_chunk = msgspec.json.Decoder(ChunkBody).decode
_decode_gapped = msgspec.json.Decoder(GappedBody).decode


def session_id(text: str) -> str:
    """A valid session id, as it is.

    Raises
    ------
    Unprocessable
    """
    if SESSION_ID.fullmatch(text) is None:
        raise Unprocessable(f"{text[:140]!r} is no session id: 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    return text


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for."""

    observations: int  # in one chunk
    steps: int  # in one forecast
    inputs: int  # of the widest model


class Chunk(msgspec.Struct, eq=False):
    """A chunk as it came, checked. A `Struct`: it costs half to make.

    observations : [steps, inputs] of finite float32
    flat : it came as a flat list, and is answered as one
    """

    observations: Floats
    flat: bool
    at: int | None
    epoch: int | None
    horizon: int
    model: str | None
    extras: Extras | None = None


def chunk(body: bytes, limits: Limits) -> Chunk:
    """The chunk in a body of `POST /sessions/{id}/observations`.

    Raises
    ------
    Malformed : not JSON, or not an object of these fields
    Unprocessable : a wrong shape, a non-number, an infinity, an empty chunk; names the row and column
    TooLarge : more observations than the limit
    """
    check_size(body, limits)
    try:
        told = _decode_chunk(body)
    except UNDECODABLE as error:
        gapped = decoded(body, error, _decode_gapped)
        return checked(gapped.observations, gapped, limits, gaps=True)
    return checked(told.observations, told, limits)


def decoded(body: bytes, error: Undecodable, gapped: Callable[[bytes], T]) -> T:
    """A body that did not decode, once more with numbers that may be null.

    Raises
    ------
    Malformed, Unprocessable : that was not all that was wrong
    """
    try:
        return gapped(body)
    except UNDECODABLE as other:
        # Of a null that was the first thing to be refused, only the second try knows what else is wrong.
        raise complaint(body, other if "`null`" in str(error) else error) from None


def checked(rows: Rows | GappedRows | None, besides: Besides, limits: Limits, *, gaps: bool = False) -> Chunk:
    """A chunk of decoded fields.

    gaps : whether a null may be among the numbers

    Raises
    ------
    Unprocessable, TooLarge : as `chunk`
    """
    extras = None
    if rows is None:
        observations, flat = _skipped(besides.skip, limits), False
    elif besides.skip is not None:
        raise Unprocessable("a chunk has observations or skips some, not both", field="skip")
    elif len(rows) > limits.observations:
        raise _too_many(limits, str(len(rows)))
    else:
        observations, flat = observed(rows, gaps=gaps)
    at, epoch = checked_at(besides.at), None if besides.epoch is None else epoch_of(besides.epoch)
    horizon = checked_horizon(besides.horizon or 0, limits)
    gaps = rows is None or (gaps and bool(np.isnan(observations).any()))
    if gaps or besides.more:
        if besides.future is not None and not horizon:
            raise Unprocessable("future is of a forecast: it needs a horizon", field="future")
        extras = Extras(
            besides.level,
            besides.score,
            gaps,
            None if besides.timestamps is None else seconds_of(besides.timestamps),
            None if besides.future is None else future_of(besides.future),
        )
    return Chunk(observations, flat, at, epoch, horizon, besides.model, extras)


def check_size(body: bytes, limits: Limits) -> None:
    """Refuse a body of a million numbers before it is parsed: parsing it would hold everybody up.

    Raises
    ------
    TooLarge
    """
    if len(body) > SMALL_BODY:
        rows = limits.observations + limits.steps * (b'"future"' in body)
        if body.count(b",") > rows * limits.inputs + 16:
            raise _too_many(limits, "more")


def check_finite(observations: Floats, limits: Limits, *, gaps: bool = False) -> None:
    """Refuse a chunk of raw float32, [steps, inputs], that is empty, too long or not finite.

    gaps : whether a NaN stands for what was not observed

    Raises
    ------
    Unprocessable : naming the row and the column
    TooLarge
    """
    if not len(observations):
        raise Unprocessable("the chunk is empty: it needs at least one observation")
    if len(observations) > limits.observations:
        raise _too_many(limits, str(len(observations)))
    finite = ~np.isinf(observations) if gaps else np.isfinite(observations)
    if not finite.all():
        row, column = (int(place) for place in np.argwhere(~finite)[0])
        raise _bad_number(row, column, f"is {observations[row, column]}, which is not a finite number")


def checked_at(at: int | None) -> int | None:
    """A position that a session could be at.

    Raises
    ------
    Unprocessable
    """
    if at is not None and not 0 <= at <= FURTHEST:
        raise Unprocessable(f"at must be 0 to {FURTHEST}, not {at}", field="at")
    return at


def checked_horizon(horizon: int, limits: Limits) -> int:
    """A forecast's length within the limit; 0 is none.

    Raises
    ------
    Unprocessable
    """
    if not 0 <= horizon <= limits.steps:
        raise Unprocessable(f"horizon must be 0 to {limits.steps}, not {horizon}", field="horizon")
    return horizon


def future_of(rows: list[Any]) -> Floats:
    """[steps, inputs known ahead] of what a forecast is told ahead; bare numbers are rows of one.

    Raises
    ------
    Unprocessable : naming the row and the column
    """
    if not rows:
        raise Unprocessable("future is empty: it needs a row for each step of the forecast", field="future")
    try:
        return observed(rows)[0]
    except Unprocessable as error:
        raise Unprocessable(f"future: {error.detail}", **(error.extra | {"field": "future"})) from None


def seconds_of(timestamps: Sequence[float | str]) -> Seconds:
    """Seconds since 1970 of times told as such, or in RFC 3339; without an offset they are UTC.

    Raises
    ------
    Unprocessable : naming the row
    """
    seconds = []
    for row, told in enumerate(timestamps):
        try:
            value = _epoch_seconds(told) if isinstance(told, str) else float(told)
        except ValueError:
            raise Unprocessable(f"timestamps[{row}] is no time in RFC 3339: {told!r:.40}", row=row) from None
        if not abs(value) < LATEST:
            raise Unprocessable(f"timestamps[{row}] is beyond the year 5000: {told!r:.40}", row=row)
        seconds.append(value)
    return np.array(seconds, np.float64)


def _epoch_seconds(text: str) -> float:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _skipped(count: int | None, limits: Limits) -> Floats:
    """[count, 0]: observations of which nothing is known, not even how many numbers they have."""
    if count is None:
        raise Unprocessable("the chunk has no observations", field="observations")
    if count < 1:
        raise Unprocessable(f"skip must be at least 1, not {count}", field="skip")
    if count > limits.observations:
        raise _too_many(limits, str(count))
    return np.empty((count, 0), np.float32)


def observed(rows: Sequence[Any], *, gaps: bool = False) -> tuple[Floats, bool]:
    """A chunk as [steps, inputs] of finite float32, NaN for null, and whether it came as a flat list.

    Raises
    ------
    Unprocessable : naming the row and the column
    """
    if not rows:
        raise Unprocessable("the chunk is empty: it needs at least one observation")
    if (
        len(rows) == 1 and not gaps
    ):  # what streams mostly send: a few comparisons are sooner than a few array operations
        first = rows[0]
        flat = not isinstance(first, list)
        numbers = first if isinstance(first, list) else rows
        if numbers and min(numbers) >= -LARGEST and max(numbers) <= LARGEST:
            return np.array([numbers], np.float32), flat
    try:
        exact = _matrix(rows)
    except (ValueError, TypeError):
        raise _ragged(rows) from None
    if exact.size == 0:
        raise Unprocessable("row 0 is empty: an observation needs at least one number", row=0)
    # Neither decoder lets a NaN through: what is one here was null.
    if (np.abs(exact) > LARGEST).any():
        raise _not_a_float32(exact)
    flat = exact.ndim == 1
    return (exact[:, None] if flat else exact).astype(np.float32), flat


def _matrix(rows: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Rows of one width as [steps, inputs], bare numbers as [steps]; laid flat first, which is sooner.

    Raises
    ------
    ValueError, TypeError : they are neither
    """
    first = rows[0]
    if not isinstance(first, list):
        return np.array(rows, np.float64)
    width = len(first)
    if set(map(len, rows)) != {width}:
        raise ValueError("the rows differ in width")
    flat = list(chain.from_iterable(rows))
    return np.array(flat, np.float64).reshape(len(rows), width)


def advanced(answer: Advanced, flat: bool) -> bytes:
    """The answer to a chunk or a forecast; what is not a number in it is null."""
    told: dict[str, Any] = {
        "session": shown(answer.session),
        "model": answer.model,
        "position": answer.position,
        "epoch": token(answer.epoch),
    }
    if "predictions" in answer.answer:
        told["replayed"] = answer.replayed
    for name, numbers in answer.answer.items():
        told[name] = written(name, numbers, flat)
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)


def written(name: str, numbers: Floats, flat: bool) -> npt.NDArray[Any]:
    """One array of an answer as it is written: scores and flat chunks as lists, `observed` as truths."""
    told: npt.NDArray[Any] = numbers != 0 if name == "observed" else numbers
    return told.ravel() if name == "scores" or (flat and told.shape[1] == 1) else told


def viewed(view: SessionView) -> dict[str, Any]:
    """A session as `GET /sessions/{id}` shows it."""
    return {
        "session": shown(view.session),
        "model": view.model,
        "fingerprint": view.fingerprint,
        "position": view.position,
        "epoch": token(view.epoch),
        "observations_since_reset": view.since_reset,
        "last_prediction": None if view.last_prediction is None else shortest(view.last_prediction),
        "created": rfc3339(view.created),
        "updated": rfc3339(view.seen),
        "expires": None if view.expires is None else rfc3339(view.expires),
        "ttl_seconds": view.ttl_seconds,
        "learning": None
        if not view.learning.on
        else {
            "readout": view.learning.readout,
            "forgetting": view.learning.forgetting,
            "prior": view.learning.prior,
            "levels": list(view.learning.levels),
        },
        "level": view.level,
        "errors": None if view.errors is None else _errors(view.errors, view.learning.levels),
    }


def _errors(errors: Errors, levels: Sequence[float]) -> dict[str, Any]:
    """Running errors of a session, over all outputs; null where there is none yet."""
    if not (errors.observed > 0).any():
        return {"observations": 0, "mse": None, "mae": None, "skill": None, "coverage": {}}
    mse, persistence = float(np.nanmean(errors.mse)), float(np.nanmean(errors.persistence))
    coverage = np.nanmean(errors.covered[0], axis=1).round(4).tolist()
    return {
        "observations": int(errors.observed.max()),
        "mse": mse,
        "mae": float(np.nanmean(errors.mae)),
        "skill": 1 - mse / persistence if persistence > 0 else None,
        "coverage": {f"{level:g}": share for level, share in zip(levels, coverage, strict=True)},
    }


def shortest(numbers: Floats) -> list[float]:
    """Float32 numbers as the shortest decimals that stand for them."""
    told: list[float] = orjson.loads(
        orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)
    )
    return told


def rfc3339(seconds: float) -> str:
    """A time since 1970 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def too_far(steps: int, most: int) -> Unprocessable:
    """The refusal of a forecast over the limit."""
    return Unprocessable(f"steps must be 1 to {most}, not {steps}", field="steps", limit=most)


def _too_many(limits: Limits, count: str) -> TooLarge:
    return TooLarge(
        f"a chunk has at most {limits.observations} observations, this one has {count}",
        limit=limits.observations,
    )


def complaint(body: bytes, error: Undecodable) -> Malformed | Unprocessable:
    """What is wrong with a body that did not decode, and where."""
    if isinstance(error, RecursionError):
        return Malformed("the body is not JSON that anybody means: it is nested too deeply")
    if isinstance(error, msgspec.ValidationError):
        return _wrong_value(str(error))
    try:
        told = json.loads(body)  # takes NaN and Infinity, which JSON does not know and people send
    except (ValueError, RecursionError):
        return Malformed(f"the body is not JSON: {error}")
    rows = told.get("observations") if isinstance(told, dict) else None
    for row, numbers in enumerate(rows if isinstance(rows, list) else ()):
        for column, number in enumerate(numbers if isinstance(numbers, list) else [numbers]):
            if isinstance(number, float) and not math.isfinite(number):
                return _bad_number(row, column, f"is {number}, which is not a finite number")
    return Malformed(f"the body is not JSON: {error}")


def _wrong_value(told: str) -> Malformed | Unprocessable:
    """Translate msgspec's `Expected x, got y - at $.observations[2][0]`."""
    what, _, path = told.partition(" - at ")
    place = re.match(r"`?\$\.(\w+)(?:\[(\d+)\])?(?:\[(\d+)\])?", path)
    if place is None:
        return Unprocessable(what)
    field, row, column = place.groups()
    if row is None:
        return Unprocessable(f"{field}: {what}", field=field)
    if field != "observations":
        return Unprocessable(f"{field}[{row}]: {what}", field=field)
    return _bad_number(int(row), int(column or 0), f"is not a number: {what[0].lower()}{what[1:]}")


def _ragged(rows: Sequence[Any]) -> Unprocessable:
    """The first row that is not like row 0."""
    wanted = _shape(rows[0])
    for row, numbers in enumerate(rows):
        if _shape(numbers) != wanted:
            told = f"row {row} has {_shape(numbers)}, row 0 has {wanted}"
            return Unprocessable(f"every observation must have as many numbers as the first: {told}", row=row)
    return Unprocessable("the observations are not rows of numbers")


def _shape(row: object) -> str:
    return f"{len(row)} numbers" if isinstance(row, list) else "a bare number"


def _not_a_float32(exact: np.ndarray[Any, np.dtype[np.float64]]) -> Unprocessable:
    rows = exact[:, None] if exact.ndim == 1 else exact
    row, column = (int(place) for place in np.argwhere(np.abs(rows) > LARGEST)[0])
    return _bad_number(row, column, f"is {rows[row, column]}, which is not a finite float32")


def _bad_number(row: int, column: int, why: str) -> Unprocessable:
    return Unprocessable(f"row {row}, column {column} {why}", row=row, column=column)
