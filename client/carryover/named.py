"""Observations with names: their columns go to the model's inputs by name, whatever their order.

A table has names: a pandas or polars DataFrame, a table of Arrow, a dict of columns, a structured array, a
list of dicts. Names that do not fit the model are refused. Only arrays and lists without names go by
position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

np: Any
try:
    import numpy as np
except ImportError:  # the extra `numpy`
    np = None

TIME = "time"
"""The column with the times of the observations, after renaming."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What a model calls its numbers, and how the source calls them.

    model : the model's name
    inputs : columns that a chunk has, in order; without those that the server makes from times
    time_inputs : columns that the server makes from times
    targets : predicted columns
    future : inputs that are known ahead
    columns : the model's name of a column by its name in the source
    """

    model: str
    inputs: tuple[str, ...]
    time_inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows taken from a table.

    rows : an array [steps, inputs], or a list of rows
    times : seconds since 1970 or RFC 3339 of each row; None if the model does not use them
    """

    rows: Any
    times: list[Any] | None = None


def names_of(observations: Any) -> list[Any] | None:
    """The names of the columns; None of observations without names."""
    if isinstance(observations, Mapping):
        return list(observations)
    if isinstance(observations, list | tuple):
        first = observations[0] if len(observations) else None
        return list(first) if isinstance(first, Mapping) else None
    names = getattr(getattr(observations, "dtype", None), "names", None)  # a structured array
    if names is None and hasattr(observations, "columns"):
        # Of an Arrow table `columns` holds the data.
        names = getattr(observations, "column_names", None)
        names = observations.columns if names is None else names
    # pandas numbers the columns of a frame that was made without names.
    return None if names is None or type(names).__name__ == "RangeIndex" else list(names)


def read_table(table: Any, naming: Naming, times: Any = None) -> Table:
    """Take the model's inputs from a table, by name.

    Parameters
    ----------
    times : of the rows, if they are not in the table

    Raises
    ------
    ValueError : a name is missing or there twice, or columns differ in length; or the model needs times
    """
    found = rename(names_of(table) or [], naming)
    wanted = naming.inputs
    if naming.time_inputs and times is None:
        times = _times_in(table, found)
        if times is None:
            wanted += naming.time_inputs
            if not set(naming.time_inputs) <= found.keys():
                check_names(found, naming, naming.inputs)
                raise ValueError(
                    f"model {naming.model!r} makes inputs from the time of each observation: name a column "
                    f"{TIME!r} (or map one with columns={{'NAME': {TIME!r}}}), use a DatetimeIndex, or give "
                    "timestamps="
                )
    check_names(found, naming, wanted)
    rows = _rows([_column(table, found[name]) for name in wanted], wanted)
    return Table(rows, None if times is None else time_list(times, len(rows)))


def read_future(table: Any, naming: Naming) -> Any:
    """Take the columns that are known ahead from a table: an array [steps, columns], or a list of rows.

    Raises
    ------
    ValueError : as `read_table`
    """
    found = rename(names_of(table) or [], naming)
    check_names(found, naming, naming.future)
    return _rows([_column(table, found[name]) for name in naming.future], naming.future)


class RowError(ValueError):
    """A row of a table is wrong. `row` counts from 0."""

    def __init__(self, row: int, complaint: str) -> None:
        super().__init__(f"row {row} {complaint}")
        self.row = row
        self.complaint = complaint


def rename(names: Sequence[Any], naming: Naming) -> dict[Any, Any]:
    """The source's name of each column by the model's name.

    Raises
    ------
    ValueError : two columns have one name, or `columns` names a column that is not there
    """
    unknown = [name for name in naming.columns if name not in names]
    if unknown:
        raise ValueError(f"columns= maps {_listed(unknown)}, but the observations have {_listed(names)}")
    found: dict[Any, Any] = {}
    for name in names:
        target = naming.columns.get(name, name)
        if target in found and target in (*naming.inputs, *naming.time_inputs, *naming.future, TIME):
            raise ValueError(f"two columns are called {target!r}: the observations have {_listed(names)}")
        found[target] = name
    return found


def check_names(found: Mapping[Any, Any], naming: Naming, wanted: Sequence[str]) -> None:
    """Refuse names that are not the model's.

    Raises
    ------
    ValueError : lists both
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"model {naming.model!r} takes {_listed(wanted)}; the observations have "
            f"{_listed(list(found.values()))}: map them with columns={{'THEIR NAME': {missing[0]!r}}}"
        )


def time_list(times: Any, length: int | None = None) -> list[Any]:
    """Times as the server reads them: numbers are seconds since 1970, and texts are RFC 3339.

    Parameters
    ----------
    times : a DatetimeIndex, a column of times, or a list of datetimes, texts or seconds; UTC without a zone
    length : of the observations

    Raises
    ------
    ValueError : a time is missing, or there is another number of them
    """
    array = times
    if str(getattr(times, "dtype", "")).lower().startswith("datetime"):  # of NumPy, pandas or polars
        array = _utc(times)
        if np.isnat(array).any():
            raise RowError(int(np.isnat(array).argmax()), "has no time")
        found: list[Any] = (array.astype("datetime64[us]").astype("int64") / 1e6).tolist()
    else:
        found = [_time(time, row) for row, time in enumerate(array)]
    if length is not None and len(found) != length:
        raise ValueError(f"there are {len(found)} times for {length} observations")
    return found


def _times_in(table: Any, found: Mapping[Any, Any]) -> Any:
    if TIME in found:
        return _column(table, found[TIME], is_time=True)
    index = getattr(table, "index", None)
    is_times = str(getattr(index, "dtype", "")).startswith("datetime")
    return index if is_times else None


def _column(table: Any, name: Any, *, is_time: bool = False) -> Any:
    if isinstance(table, list | tuple):
        for row, cells in enumerate(table):
            if name not in cells:
                raise RowError(row, f"has no {name!r}; it has {_listed(list(cells))}")
        return [cells[name] for cells in table]
    if hasattr(table, "get_column"):  # polars
        column = table.get_column(name)
        return column if is_time else column.to_numpy()
    if hasattr(table, "column_names"):  # Arrow
        column = table.column(name)
        return column.to_pylist() if is_time else column.to_numpy(zero_copy_only=False)
    column = table[name]
    if is_time or not hasattr(column, "to_numpy"):
        return column
    check_numbers(column, name)
    return column.to_numpy(dtype="float64", na_value=np.nan) if hasattr(column, "iloc") else column.to_numpy()


def _rows(columns: list[Any], names: Sequence[str]) -> Any:
    """[steps, inputs] of columns that are [steps] or [steps, ...]: an array, or lists if all columns are."""
    if not columns:
        return []
    lengths = {name: len(column) for name, column in zip(names, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns differ in length: {lengths}")
    columns = [unmasked(column) for column in columns]
    for name, column in zip(names, columns, strict=True):
        check_numbers(column, name)
    if np is None or all(isinstance(column, list | tuple) for column in columns):
        return [[number for cell in row for number in _flat(cell)] for row in zip(*columns, strict=True)]
    whole = all(
        getattr(column, "dtype", None) is not None and column.dtype.kind in "iu" for column in columns
    )
    # Whole numbers stay whole: float64 holds no more than 53 bits of them.
    arrays = [np.asarray(column) if whole else np.asarray(column, "float64") for column in columns]
    if not len(arrays[0]):
        return np.empty((0, len(arrays)))
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def check_numbers(column: Any, name: Any = None) -> None:
    """Refuse times and complex numbers, which NumPy and pandas would convert to floats.

    Raises
    ------
    ValueError
    """
    kind = getattr(getattr(column, "dtype", None), "kind", None)
    if kind in ("M", "m", "c"):
        where = "the observations" if name is None else f"column {name!r}"
        raise ValueError(f"{where}: {'complex numbers' if kind == 'c' else 'times'} are no observations")


def unmasked(array: Any) -> Any:
    """The same array; what is masked is missing, and NaN."""
    if np is None or not (isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array)):
        return array
    return array.astype("float64").filled(np.nan)


def _flat(cell: Any) -> list[Any]:
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    if not isinstance(cell, list | tuple):
        return [cell]
    return [number for part in cell for number in _flat(part)]


def _utc(times: Any) -> Any:
    """[steps] of datetime64 in UTC."""
    if hasattr(times, "tz_convert") or hasattr(times, "iloc"):  # pandas, whose arrays with a zone are objects
        return times.to_numpy(dtype="datetime64[ns]")
    return times.to_numpy() if hasattr(times, "to_numpy") else np.asarray(times)


def _time(time: Any, row: int) -> Any:
    time = time.item() if hasattr(time, "item") else time
    if time is None or time != time:  # NaN and NaT are not equal to themselves
        raise RowError(row, "has no time")
    if isinstance(time, datetime):
        return time.isoformat()
    return time if isinstance(time, str) else float(time)


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names)) or "no columns"
