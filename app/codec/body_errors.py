"""What is wrong with a body, and where."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from app.codec.limits import MAX_FLOAT32, AnyDecodeError, Limits
from app.errors import Malformed, TooLarge, Unprocessable

MAX_DIAGNOSED = 100_000  # lists and objects in a body that is read again, which builds all of them


def too_many_steps_error(steps: int, most: int) -> Unprocessable:
    """The error of a forecast over the limit."""
    return Unprocessable(f"steps must be 1 to {most}, not {steps}", field="steps", limit=most)


def too_many_observations_error(limits: Limits, count: str) -> TooLarge:
    """The error of a chunk with more observations than the limit."""
    return TooLarge(
        f"a chunk has at most {limits.observations} observations, this one has {count}",
        limit=limits.observations,
    )


def decode_error(body: bytes, error: AnyDecodeError) -> Malformed | Unprocessable:
    """What is wrong with a body that did not decode, and where."""
    if isinstance(error, RecursionError):
        return Malformed("the JSON is nested too deeply")
    if not body.strip():
        return Malformed("the body is empty")
    if isinstance(error, msgspec.ValidationError):
        return _wrong_value(str(error))
    if body.count(b"[") + body.count(b"{") > MAX_DIAGNOSED:
        return Malformed(f"the body is not JSON: {error}")
    try:
        document = json.loads(body)  # accepts NaN and Infinity, which are not JSON but are sent
    except (ValueError, RecursionError):
        return Malformed(f"the body is not JSON: {error}")
    rows = document.get("observations") if isinstance(document, dict) else None
    for row, numbers in enumerate(rows if isinstance(rows, list) else ()):
        for column, number in enumerate(numbers if isinstance(numbers, list) else [numbers]):
            if isinstance(number, float) and not math.isfinite(number):
                return invalid_number_error(row, column, f"is {number}, which is not a finite number")
    return Malformed(f"the body is not JSON: {error}")


def looks_like_csv(body: bytes) -> bool:
    """Whether a body that is not JSON may be rows of CSV, sent without its content type."""
    text = body.strip()
    return text[:1] not in (b"{", b"[", b'"', b"") and (b"\n" in text or b"," in text)


def _wrong_value(message: str) -> Malformed | Unprocessable:
    """Translate msgspec's `Expected x, got y - at $.observations[2][0]`."""
    what, _, path = message.partition(" - at ")
    location = re.match(r"`?\$\.(\w+)(?:\[(\d+)\])?(?:\[(\d+)\])?", path)
    if location is None:
        return Unprocessable(what)
    field, row, column = location.groups()
    if row is None:
        return Unprocessable(f"{field}: {what}", field=field)
    if field != "observations":
        return Unprocessable(f"{field}[{row}]: {what}", field=field)
    return invalid_number_error(int(row), int(column or 0), f"is not a number: {what[0].lower()}{what[1:]}")


def ragged_rows_error(rows: Sequence[Any]) -> Unprocessable:
    """The error of the first row that differs in width from row 0."""
    expected = _shape(rows[0])
    for row, numbers in enumerate(rows):
        if _shape(numbers) != expected:
            return ragged_row_error(row, _shape(numbers), expected)
    return Unprocessable("the observations are not rows of numbers")


def ragged_row_error(row: int, found: str, expected: str) -> Unprocessable:
    """The error of a row that differs in width from row 0."""
    difference = f"row {row} has {found}, row 0 has {expected}"
    return Unprocessable(f"every observation must have as many numbers as the first: {difference}", row=row)


def _shape(row: object) -> str:
    return f"{len(row)} numbers" if isinstance(row, list) else "a bare number"


def float32_range_error(exact: np.ndarray[Any, np.dtype[np.float64]]) -> Unprocessable:
    """The error of the first number that float32 cannot hold.

    Parameters
    ----------
    exact : [steps] or [steps, inputs]
    """
    rows = exact[:, None] if exact.ndim == 1 else exact
    row, column = (int(index) for index in np.argwhere(np.abs(rows) > MAX_FLOAT32)[0])
    return invalid_number_error(row, column, f"is {rows[row, column]}, which is not a finite float32")


def invalid_number_error(row: int, column: int, reason: str) -> Unprocessable:
    """The error of a number of a chunk, by its row and column."""
    return Unprocessable(f"row {row}, column {column} {reason}", row=row, column=column)
