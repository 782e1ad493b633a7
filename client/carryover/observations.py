"""Observations as numbers, lists, NumPy arrays or pandas objects. Answers have the type of the observations.

NumPy is optional: without it, observations can be numbers and lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

np: Any
try:
    import numpy as np
except ImportError:  # the extra `numpy`
    np = None


class Chunk:
    """One or more observations to be sent together.

    rows : a list of numbers or of rows; or an array, [steps] or [steps, inputs]; NaN and None are missing
        values
    flat : the rows are numbers, of a model with one input; its predictions are then numbers, too
    labels : the pandas index of the observations, or None
    columns : the names of the predicted columns for a DataFrame, or the name of a Series
    skip : a number of missing observations, in place of rows
    """

    __slots__ = ("_floats", "columns", "flat", "labels", "rows", "skip")

    def __init__(
        self,
        rows: Any,
        flat: bool,
        labels: Any = None,
        columns: tuple[Any, ...] | None = None,
        skip: int = 0,
    ) -> None:
        self.rows = rows
        self.flat = flat
        self.labels = labels
        self.columns = columns
        self.skip = skip
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
        part = Chunk(self.rows[start:end], self.flat, labels, self.columns)
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

        None for lists, for missing values, and for whole numbers, which float32 might round.
        """
        if self._floats is None and self.is_array and not self.skip and self.rows.dtype.kind not in "iu":
            with np.errstate(
                over="ignore"
            ):  # values beyond float32 become infinite, which the server refuses
                floats = self.rows.astype("<f4", order="C", copy=False)
            if not np.isnan(floats).any():
                self._floats = floats[:, None] if self.flat else floats
        return self._floats


def chunk_of(observations: Any, inputs: Sequence[str] = (), targets: Sequence[str] = ()) -> Chunk:
    """Convert observations of any supported type to a chunk.

    Parameters
    ----------
    observations : a number, a list of numbers or rows, an array [steps] or [steps, inputs], pandas
    inputs, targets : the model's columns; the columns of a DataFrame are put into the order of the inputs

    Raises
    ------
    ValueError, TypeError : the observations are not numbers, or have more than two dimensions
    """
    if isinstance(observations, Chunk):
        return observations
    if is_pandas(observations):
        return _from_pandas(observations, inputs, targets)
    if hasattr(observations, "__array__"):
        return _from_array(np.asarray(observations))
    if isinstance(observations, int | float) or observations is None:
        return Chunk([observations], True)
    rows = [_to_python(row) for row in observations]
    return Chunk(rows, not rows or not isinstance(rows[0], list | tuple))


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


def is_frame(observations: Any) -> bool:
    """Whether it is a DataFrame."""
    return is_pandas(observations) and hasattr(observations, "columns")


def is_in_memory(source: Any) -> bool:
    """Whether all observations exist already: a list, an array, a Series; not a generator."""
    return isinstance(source, list | tuple | range) or hasattr(source, "__array__") or is_pandas(source)


def chunks_of(source: Any, size: int, inputs: Sequence[str], targets: Sequence[str]) -> Iterator[Chunk]:
    """Cut a source into chunks of `size` observations; an iterator is read one chunk at a time.

    Raises
    ------
    ValueError, TypeError : as `chunk_of`
    """
    if is_in_memory(source):
        everything = chunk_of(source, inputs, targets)
        everything.floats()  # converts once, for all parts
        for start in range(0, len(everything), size):
            yield everything.part(start, start + size)
        return
    for rows in batched(source, size):
        yield chunk_of(rows)


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


def concatenate(parts: list[Any]) -> Any:
    """Join the numbers of many answers, in order."""
    if isinstance(parts[0], dict):
        return {name: concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], list):
        return [number for part in parts for number in part]
    return np.concatenate(parts)


def _from_pandas(observations: Any, inputs: Sequence[str], targets: Sequence[str]) -> Chunk:
    if not is_frame(observations):
        numbers = observations.to_numpy(dtype="float64", na_value=np.nan)
        return Chunk(numbers, True, observations.index, (observations.name,))
    if inputs and set(inputs) <= set(observations.columns):
        observations = observations[list(inputs)]
    numbers = observations.to_numpy(dtype="float64", na_value=np.nan)
    return Chunk(numbers, False, observations.index, tuple(targets) or None)


def _from_array(array: Any) -> Chunk:
    if array.dtype.kind not in "fiub":
        array = array.astype("float64")
    if array.ndim > 2:
        raise ValueError(f"observations must have one or two dimensions, not {array.ndim}")
    return Chunk(array.reshape(1) if array.ndim == 0 else array, array.ndim < 2)


def _to_python(row: Any) -> Any:
    """Convert NumPy numbers and rows to Python objects, which JSON can hold."""
    return row.tolist() if hasattr(row, "tolist") else row


def _first_leaf(numbers: Any) -> Any:
    """The first number of nested lists; None where there is none."""
    while isinstance(numbers, list):
        numbers = numbers[0] if numbers else None
    return numbers
