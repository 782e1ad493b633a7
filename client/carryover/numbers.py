"""Observations as people have them: numbers, lists, NumPy, pandas. Answers come back in the same kind.

NumPy is optional: nothing here imports it unless an array comes in, or it is there already for a forecast.
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
    """One or more observations on their way to the server.

    rows : a list of numbers or of rows; or an array, [steps] or [steps, inputs]; NaN and None are gaps
    flat : bare numbers, of a model with one input; its predictions come back as flat
    labels : the pandas index of the observations, or None
    columns : names of what is predicted, for a DataFrame; the name of a Series alone
    skip : observations wholly missing, in place of rows
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
        """Whether its answer is made of arrays."""
        return not isinstance(self.rows, list)

    def part(self, start: int, end: int) -> Chunk:
        """Some of its observations."""
        labels = None if self.labels is None else self.labels[start:end]
        part = Chunk(self.rows[start:end], self.flat, labels, self.columns)
        if self._floats is not None:
            part._floats = self._floats[start:end]
        return part

    def text(self) -> str:
        """The rows as JSON; what is not a number is null, an observation that is missing."""
        text = json.dumps(self.rows.tolist() if self.is_array else self.rows)
        # There are only numbers in it, so that these three letters are a gap wherever they stand.
        return text.replace("NaN", "null") if "NaN" in text else text

    def floats(self) -> Any:
        """[steps, inputs] of little-endian float32, or None: only arrays without gaps go as bytes."""
        if self._floats is None and self.is_array and not self.skip:
            with np.errstate(over="ignore"):  # beyond float32 it is infinite, which the server refuses
                floats = self.rows.astype("<f4", order="C", copy=False)
            if not np.isnan(floats).any():
                self._floats = floats[:, None] if self.flat else floats
        return self._floats


def chunk_of(observations: Any, inputs: Sequence[str] = (), targets: Sequence[str] = ()) -> Chunk:
    """Observations of any kind as a chunk.

    Parameters
    ----------
    observations : a number, a list of numbers or rows, an array [steps] or [steps, inputs], pandas
    inputs, targets : of the model: a DataFrame with these columns is put into their order

    Raises
    ------
    ValueError, TypeError : there are no numbers in it
    """
    if isinstance(observations, Chunk):
        return observations
    if is_pandas(observations):
        return _of_pandas(observations, inputs, targets)
    if hasattr(observations, "__array__"):
        return _of_array(np.asarray(observations))
    if isinstance(observations, int | float) or observations is None:
        return Chunk([observations], True)
    rows = [_plain(row) for row in observations]
    return Chunk(rows, not rows or not isinstance(rows[0], list | tuple))


def gap(count: int) -> Chunk:
    """Observations that are wholly missing."""
    return Chunk([], True, skip=checked_size(count))


def checked_size(count: int) -> int:
    """A whole number above 0.

    Raises
    ------
    ValueError
    """
    if count < 1:
        raise ValueError(f"it takes at least one observation, not {count}")
    return count


def is_pandas(observations: Any) -> bool:
    """Whether it has an index of its own."""
    return hasattr(observations, "iloc") and hasattr(observations, "index")


def is_frame(observations: Any) -> bool:
    """Whether it is a DataFrame, whose columns the model's inputs and targets name."""
    return is_pandas(observations) and hasattr(observations, "columns")


def is_whole(source: Any) -> bool:
    """Whether all of it is there already: a list, an array, a Series; not a generator."""
    return isinstance(source, list | tuple | range) or hasattr(source, "__array__") or is_pandas(source)


def chunks_of(source: Any, size: int, inputs: Sequence[str], targets: Sequence[str]) -> Iterator[Chunk]:
    """Cut a source into chunks of `size` observations; a generator is asked for one chunk at a time.

    Raises
    ------
    ValueError, TypeError : as `chunk_of`
    """
    if is_whole(source):
        whole = chunk_of(source, inputs, targets)
        whole.floats()  # made once, for all its parts
        for start in range(0, len(whole), size):
            yield whole.part(start, start + size)
        return
    for rows in batched(source, size):
        yield chunk_of(rows)


def batched(source: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    rows: list[Any] = []
    for row in source:
        rows.append(row)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows


def like(numbers: Any, chunk: Chunk | None) -> Any:
    """Numbers of an answer's JSON in the kind that the chunk came in; null becomes NaN in an array."""
    if hasattr(numbers, "dtype"):
        return numbers.copy()  # bytes of a message cannot be written to
    if np is None or (chunk is not None and not chunk.is_array):
        return numbers
    if _is_bool(numbers):
        return np.array(numbers, bool)
    return np.array(numbers, np.float32)


def labelled(numbers: Any, labels: Any, columns: tuple[Any, ...] | None) -> Any:
    """A Series or DataFrame on this index, as [steps] or [steps, outputs] asks for."""
    import pandas as pd

    if numbers.ndim == 1:
        return pd.Series(numbers, labels, name=columns[0] if columns else None)
    return pd.DataFrame(
        numbers, labels, columns=columns if columns and len(columns) == numbers.shape[1] else None
    )


def joined(parts: list[Any]) -> Any:
    """Numbers of many answers one behind the other."""
    if isinstance(parts[0], list):
        return [number for part in parts for number in part]
    return np.concatenate(parts)


def _of_pandas(observations: Any, inputs: Sequence[str], targets: Sequence[str]) -> Chunk:
    if not is_frame(observations):
        numbers = observations.to_numpy(dtype="float64", na_value=np.nan)
        return Chunk(numbers, True, observations.index, (observations.name,))
    if inputs and set(inputs) <= set(observations.columns):
        observations = observations[list(inputs)]
    numbers = observations.to_numpy(dtype="float64", na_value=np.nan)
    return Chunk(numbers, False, observations.index, tuple(targets) or None)


def _of_array(array: Any) -> Chunk:
    if array.dtype.kind not in "fiub":
        array = array.astype("float64")
    if array.ndim > 2:
        raise ValueError(f"observations have one or two dimensions, these {array.ndim}")
    return Chunk(array.reshape(1) if array.ndim == 0 else array, array.ndim < 2)


def _plain(row: Any) -> Any:
    """NumPy's numbers and rows are written as Python's."""
    return row.tolist() if hasattr(row, "tolist") else row


def _is_bool(numbers: Any) -> bool:
    first = numbers[0] if numbers else None
    return isinstance(first[0] if isinstance(first, list) else first, bool)
