"""Files -> Series."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import Doubles
from models.data.series import Series
from models.data.tables.columns import TableReader, listed, rename
from models.data.tables.files import open_table
from models.data.tables.options import NO_OPTIONS, TableOptions
from models.data.tables.times import EPOCHS
from models.errors import BadData

LONG_NAMES = (("unique_id", "ds"), ("item_id", "timestamp"))  # the series of a row, and its time
INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # what pandas calls an index in a file


def read_series(
    path: Path,
    columns: Sequence[str] | None = None,
    options: TableOptions = NO_OPTIONS,
    gaps: bool = False,
    inputs: Sequence[str] | None = None,
) -> Series:
    """Read a file.

    Parameters
    ----------
    path
        CSV, JSON Lines, Parquet or NPZ; see `models.data.tables.files`. In NPZ each array is a column, or one
        array [rows, columns] has them all, and perhaps the names are in an array `columns`.
    columns
        Which to read, in this order; without it, all but those that hold times. An index that pandas wrote is
        then refused: it would become an input.
    gaps
        Whether an empty cell (or another of `tables.numbers.GAPS`) means that nothing was observed; without,
        it is refused.
    inputs
        In place of `columns`: the inputs of a model, which a file without a header has in their order.

    Raises
    ------
    BadData
        The message names the file, the row (from 1, below the header) and the column.
    """
    series, _ = _read(path, columns, options, gaps, inputs, None)
    return series


def read_long_table(
    path: Path,
    label: str | None,
    columns: Sequence[str] | None = None,
    options: TableOptions = NO_OPTIONS,
    gaps: bool = False,
    inputs: Sequence[str] | None = None,
) -> dict[str, Series] | None:
    """Read a long table: the rows of many series in one file, those of each series in the order of time.

    Parameters
    ----------
    label
        Column that says to which series a row belongs; None: `unique_id` beside `ds`, or `item_id` beside
        `timestamp`, as the libraries Nixtla and GluonTS name them.
    columns, options, gaps, inputs
        As in `read_series`.

    Returns
    -------
    dict[str, Series] | None
        By name, in the order of their first rows; None for a table of one series, without such columns.

    Raises
    ------
    BadData
        As in `read_series`; a row names no series; or there are local times: an hour that comes twice is
        recognised by the rows around it, and here those may be of another series.
    """
    if label is None:
        found = _long_names(path, options)
        if found is None:
            return None
        label, time = found
        options = replace(options, time_column=options.time_column or time)
    if options.zone is not None:
        raise BadData(f"{path} has many series: write their times with an offset, in place of --timezone")
    whole, labels = _read(path, columns, options, gaps, inputs, label)
    rows: dict[str, list[int]] = {}
    for row, cell in enumerate(labels):
        name = "" if cell is None else str(cell).strip()
        if not name:
            raise BadData(f"{path}, row {row + 1}, column {label!r}: the row belongs to no series")
        rows.setdefault(name, []).append(row)
    return {
        name: replace(
            whole,
            source=f"{path}, series {name!r}",
            values=whole.values[at],
            times=None if whole.times is None else whole.times[at],
            ordered=True,
        )
        for name, at in rows.items()
    }


def is_long_table(path: Path, options: TableOptions = NO_OPTIONS) -> bool:
    """Whether the names of a table's columns say that it has the rows of many series.

    Raises
    ------
    BadData
        It cannot be read.
    """
    return _long_names(path, options) is not None


def _long_names(path: Path, options: TableOptions) -> tuple[str, str] | None:
    with open_table(path, options) as table:
        names = set(rename(table.names, options.names, table.source)) - set(options.ignored)
    return next((pair for pair in LONG_NAMES if set(pair) <= names), None)


def _read(
    path: Path,
    columns: Sequence[str] | None,
    options: TableOptions,
    gaps: bool,
    inputs: Sequence[str] | None,
    label: str | None,
) -> tuple[Series, list[Any]]:
    """The rows of a file, and the cells of the label, of whose series the times may go back."""
    with open_table(path, options) as table:
        names = rename(table.names, options.names, table.source)
        for name in columns or ():
            if name not in names:
                raise BadData(f"{path} has no column {name!r}; it has {listed(names)}")
        reader = TableReader(table, options, columns or inputs, label=label, gaps=gaps)
        if columns is None and inputs is None:
            _check_index(path, names, options)
        rows = list(reader.rows())
    if not rows:
        raise BadData(f"{path} has no rows")
    values = np.concatenate([piece.values for piece in rows])
    times = None
    if rows[0].times is not None:
        times = np.concatenate([piece.times for piece in rows if piece.times is not None])
    if columns is None and inputs is None:
        _check_epochs(path, reader.names, values)
    notes = list(reader.notes)
    if inputs is not None and reader.ignored:
        notes.append(f"not read, because the model has no such input: {listed(reader.ignored)}")
    labels = [cell for piece in rows for cell in piece.labels or ()]
    series = Series(
        str(path), reader.names, values, times, gaps=gaps, notes=tuple(notes), ordered=label is None
    )
    return series, labels


def _check_index(path: Path, names: Sequence[str], options: TableOptions) -> None:
    for name in names:
        if INDEX.fullmatch(name) and name not in (options.time_column, *options.ignored):
            shown = repr(name) if name else "without a name"
            raise BadData(
                f"{path} has a column {shown}, as pandas writes its index: name the columns to read with "
                "--columns, or write the file with index=False"
            )


def _check_epochs(path: Path, names: Sequence[str], values: Doubles) -> None:
    """Refuse to learn from a column of times. Its name did not say that it is one, so the user must."""
    for name, numbers in zip(names, values.T, strict=True):
        seen = numbers[~np.isnan(numbers)]
        if len(seen) < 2 or not (np.diff(seen) > 0).all() or not (seen == np.rint(seen)).all():
            continue
        for unit, (low, high) in EPOCHS.items():
            if low <= seen[0] and seen[-1] <= high:
                raise BadData(
                    f"{path}, column {name!r} looks like times in {unit} since 1970: name it with "
                    f"--time-column {name}, or the columns to learn from with --columns"
                )
