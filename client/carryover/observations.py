"""Observations as numbers, lists, NumPy arrays or tables. Answers have the type of the observations.

NumPy is optional: without it, observations can be numbers, lists and dicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from carryover.named import (
    Naming,
    RowError,
    check_numbers,
    names_of,
    read_future,
    read_table,
    time_list,
    unmasked,
)

np: Any
try:
    import numpy as np
except ImportError:  # the extra `numpy`
    np = None

FLOAT32_WHOLE = 2**24
"""Up to here float32 has every whole number."""


class Chunk:
    """One or more observations to be sent together.

    rows : a list of numbers or of rows; or an array, [steps] or [steps, inputs]; NaN and None are missing
        values
    flat : the rows are numbers, of a model with one input; its predictions are then numbers, too
    labels : the pandas index of the observations, or None
    columns : the names of the predicted columns for a DataFrame, or the name of a Series
    skip : a number of missing observations, in place of rows
    timestamps : the time of each observation, seconds since 1970 or RFC 3339; None without
    """

    __slots__ = ("_floats", "columns", "flat", "labels", "rows", "skip", "timestamps")

    def __init__(
        self,
        rows: Any,
        flat: bool,
        labels: Any = None,
        columns: tuple[Any, ...] | None = None,
        skip: int = 0,
        timestamps: list[Any] | None = None,
    ) -> None:
        self.rows = rows
        self.flat = flat
        self.labels = labels
        self.columns = columns
        self.skip = skip
        self.timestamps = timestamps
        self._floats: Any = None

    def __len__(self) -> int:
        return self.skip or len(self.rows)

    @property
    def is_array(self) -> bool:
        """Whether the answer consists of arrays."""
        return not isinstance(self.rows, list)

    def part(self, start: int, end: int) -> Chunk:
        """Return the observations from `start` to `end`, as a chunk."""
        labels = None if self.labels is None else self.labels[start:end]
        times = None if self.timestamps is None else self.timestamps[start:end]
        part = Chunk(self.rows[start:end], self.flat, labels, self.columns, timestamps=times)
        if self._floats is not None:
            part._floats = self._floats[start:end]
        return part

    def text(self) -> str:
        """Return the rows as JSON; NaN becomes null, a missing observation."""
        text = json.dumps(self.rows.tolist() if self.is_array else self.rows)
        # The text holds numbers only, so every "NaN" in it is a missing value.
        return text.replace("NaN", "null") if "NaN" in text else text

    def floats(self) -> Any:
        """Return [steps, inputs] as little-endian float32.

        None for lists, for missing values, for whole numbers that float32 might round, and with timestamps,
        which a binary message has no place for.
        """
        if self.timestamps is not None:
            return None
        if self._floats is None and self.is_array and not self.skip and not _may_be_rounded(self.rows):
            with np.errstate(
                over="ignore"
            ):  # values beyond float32 become infinite, which the server refuses
                floats = self.rows.astype("<f4", order="C", copy=False)
            if not np.isnan(floats).any():
                self._floats = floats[:, None] if self.flat else floats
        return self._floats


def chunk_of(observations: Any, naming: Naming | None = None, timestamps: Any = None) -> Chunk:
    """Convert observations of any supported type to a chunk.

    Parameters
    ----------
    observations : a number, a list of numbers or rows, an array [steps] or [steps, inputs], a pandas Series;
        or a table, whose columns have names
    naming : what the model calls its inputs, for a table
    timestamps : times of the observations, if they are not in the table

    Raises
    ------
    ValueError, TypeError : the observations are not numbers, have more than two dimensions, or names that are
        not those of the model
    """
    if isinstance(observations, Chunk):
        return observations
    if names_of(observations) is not None:
        return _from_table(observations, naming, timestamps)
    if naming is not None and naming.columns:
        raise ValueError("columns= maps names, but the observations have none")
    chunk = _without_names(observations)
    if timestamps is not None:
        chunk.timestamps = time_list(timestamps, len(chunk))
    return chunk


def next_chunk(rows: Any, naming: Naming | None, timestamps: Any, first: int) -> Chunk:
    """Convert the next rows of a stream to a chunk.

    Parameters
    ----------
    first : the row of the stream where the chunk begins

    Raises
    ------
    ValueError, TypeError : as `chunk_of`; a row is counted from the beginning of the stream
    """
    try:
        return chunk_of(rows, naming, timestamps)
    except RowError as error:
        raise RowError(first + error.row, f"of the stream {error.complaint}") from None


def future_chunk(future: Any, naming: Naming | None) -> Chunk:
    """Convert the columns that are known ahead to a chunk.

    Raises
    ------
    ValueError, TypeError : as `chunk_of`
    """
    if naming is None or names_of(future) is None:
        return chunk_of(future)
    return Chunk(read_future(future, naming), False)


def missing_chunk(count: int) -> Chunk:
    """Return a chunk of `count` missing observations."""
    return Chunk([], True, skip=check_positive(count))


def check_positive(count: int) -> int:
    """Return the number.

    Raises
    ------
    ValueError : it is below 1
    """
    if count < 1:
        raise ValueError(f"the number must be at least 1, not {count}")
    return count


def is_pandas(observations: Any) -> bool:
    """Whether it is a Series or a DataFrame."""
    return hasattr(observations, "iloc") and hasattr(observations, "index")


def is_in_memory(source: Any) -> bool:
    """Whether all observations exist already: a list, an array, a table; not a generator."""
    return (
        isinstance(source, list | tuple | range)
        or hasattr(source, "__array__")
        or is_pandas(source)
        or names_of(source) is not None
    )


def length_of(source: Any) -> int:
    """Return the number of observations that are in memory."""
    if isinstance(source, Mapping):
        return len(next(iter(source.values()))) if source else 0
    return len(source)


def chunks_of(whole: Chunk, size: int) -> Iterator[Chunk]:
    """Cut a chunk into chunks of `size` observations."""
    whole.floats()  # converts once, for all parts
    for start in range(0, len(whole), size):
        yield whole.part(start, start + size)


def batched(source: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` items; the last list may be shorter."""
    rows: list[Any] = []
    for row in source:
        rows.append(row)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows


def match_kind(numbers: Any, chunk: Chunk | None) -> Any:
    """Convert an answer's numbers to the chunk's type, lists or arrays. In an array, null becomes NaN."""
    if hasattr(numbers, "dtype"):
        return numbers.copy()  # an array over a message's bytes is read-only
    if np is None or (chunk is not None and not chunk.is_array):
        return numbers
    if isinstance(numbers, dict):
        return {name: match_kind(part, chunk) for name, part in numbers.items()}
    leaf = _first_leaf(numbers)
    return np.array(numbers, {bool: np.bool_, int: np.int64}.get(type(leaf), np.float32))


def with_labels(numbers: Any, labels: Any, columns: tuple[Any, ...] | None) -> Any:
    """Return numbers [steps] as a Series, or [steps, outputs] as a DataFrame, with this index."""
    import pandas as pd

    if numbers.ndim == 1:
        return pd.Series(numbers, labels, name=columns[0] if columns else None)
    return pd.DataFrame(
        numbers, labels, columns=columns if columns and len(columns) == numbers.shape[1] else None
    )


def following(labels: Any) -> Any:
    """What follows each of these times: the next of them, and one more step behind the last.

    A step of the calendar, such as a month, or a day across a clock change, has no length of its own.
    """
    known = getattr(labels, "freq", None)
    if known is None and len(labels) > 2 and hasattr(labels, "inferred_freq"):
        known = labels.inferred_freq
        labels = labels if known is None else type(labels)(labels, freq=known)
    if known is not None:
        return labels.shift(1)
    return labels[1:].append(labels[-1:] + (labels[-1] - labels[-2]))


def all_true(sample: Any, length: int) -> Any:
    """True for each number of `length` steps, in the form of the sample: [steps] or [steps, inputs]."""
    if isinstance(sample, list):
        return [[True] * len(sample[0]) if isinstance(sample[0], list) else True for _ in range(length)]
    return np.ones((length, *sample.shape[1:]), np.bool_)


def concatenate(parts: list[Any]) -> Any:
    """Join the numbers of many answers, in order."""
    if isinstance(parts[0], dict):
        return {name: concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], list):
        return [number for part in parts for number in part]
    filled = [part for part in parts if len(part)]  # an empty list does not say how wide its rows would be
    return np.concatenate(filled or parts[:1])


def _without_names(observations: Any) -> Chunk:
    check_numbers(observations)
    if is_pandas(observations):
        numbers = observations.to_numpy(dtype="float64", na_value=np.nan)
        name = getattr(observations, "name", None)
        return Chunk(numbers, numbers.ndim < 2, observations.index, (name,) if numbers.ndim < 2 else None)
    if hasattr(observations, "__array__"):
        array = np.asarray(unmasked(observations))
        check_numbers(array)
        return _from_array(array)
    if isinstance(observations, int | float) or observations is None:
        return Chunk([observations], True)
    rows = [_to_python(row) for row in observations]
    return Chunk(rows, not rows or not isinstance(rows[0], list | tuple))


def _from_table(table: Any, naming: Naming | None, timestamps: Any) -> Chunk:
    if naming is None:
        raise ValueError(
            f"the inputs of the model are not known, so {', '.join(map(str, names_of(table) or []))} "
            "cannot be put into their order"
        )
    taken = read_table(table, naming, timestamps)
    labels = table.index if is_pandas(table) else None
    return Chunk(taken.rows, False, labels, naming.targets or None, timestamps=taken.times)


def _from_array(array: Any) -> Chunk:
    if array.dtype.kind not in "fiub":
        array = array.astype("float64")
    if array.ndim > 2:
        raise ValueError(f"observations must have one or two dimensions, not {array.ndim}")
    return Chunk(array.reshape(1) if array.ndim == 0 else array, array.ndim < 2)


def _may_be_rounded(rows: Any) -> bool:
    """Whether rows hold whole numbers that float32 might round; pandas often has them as float64."""
    if rows.dtype.kind in "iu":
        return True
    return rows.dtype.itemsize > 4 and bool((np.abs(rows) > FLOAT32_WHOLE).any())


def _to_python(row: Any) -> Any:
    """Convert NumPy numbers and rows to Python objects, which JSON can hold."""
    return row.tolist() if hasattr(row, "tolist") else row


def _first_leaf(numbers: Any) -> Any:
    """The first number of nested lists; None where there is none."""
    while isinstance(numbers, list):
        numbers = numbers[0] if numbers else None
    return numbers
