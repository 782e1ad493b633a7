"""Files -> Series."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.arrays import Doubles
from models.data.series import Series
from models.data.tables.columns import TableReader, listed, rename
from models.data.tables.files import open_table
from models.data.tables.options import NO_OPTIONS, TableOptions
from models.data.tables.times import EPOCHS
from models.errors import BadData

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
    with open_table(path, options) as table:
        names = rename(table.names, options.names, table.source)
        for name in columns or ():
            if name not in names:
                raise BadData(f"{path} has no column {name!r}; it has {listed(names)}")
        reader = TableReader(table, options, columns or inputs, gaps=gaps)
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
    return Series(str(path), reader.names, values, times, gaps=gaps, notes=tuple(notes))


def _check_index(path: Path, names: Sequence[str], options: TableOptions) -> None:
    for name in names:
        if INDEX.fullmatch(name) and name != options.time_column:
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
