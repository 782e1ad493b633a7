"""CSV, Parquet and NPZ files -> Series.

Each format is first read into named columns of cells. The rules for cells are the same for all formats.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import AnyArray, Doubles, Times
from models.data.series import Series
from models.errors import BadData

Table = dict[str, AnyArray]

GAPS = frozenset(("", "nan", "na", "null", "none"))  # upper or lower case


def read_series(
    path: Path,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
    gaps: bool = False,
) -> Series:
    """Read a file.

    Parameters
    ----------
    path
        `.csv` (comma, semicolon or tab; a first row without a number is the header), `.parquet`, or `.npz`
        (each array a column, or one array [rows, columns] and perhaps the names in an array `columns`).
    columns
        Which to read, in this order; without it, all but the time column.
    time_column
        Its name; without it, the first column of ISO 8601 times, if there is one. Numbers are seconds since
        1970, UTC.
    gaps
        Whether an empty cell (or another of `GAPS`) means that nothing was observed; without, it is refused.

    Raises
    ------
    BadData
        The message names the file, the row (from 1, below the header) and the column.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadData(f"{path} is not a {', '.join(READERS)} file")
    if not path.is_file():
        raise BadData(f"{path} does not exist")
    table = reader(path)
    time_column = time_column or next(
        (name for name, cells in table.items() if _look_like_times(cells)), None
    )
    names = columns or [name for name in table if name != time_column]
    for name in (*names, *([time_column] if time_column else [])):
        if name not in table:
            raise BadData(f"{path} has no column {name!r}; it has {', '.join(table)}")
    if not names or not len(table[names[0]]):
        raise BadData(f"{path} has no {'columns of numbers' if not names else 'rows'}")
    values = np.stack([_numbers(table[name], path, name, gaps) for name in names], axis=1)
    times = _times(table[time_column], path, time_column) if time_column else None
    return Series(str(path), tuple(names), values, times, gaps=gaps)


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [row for row in cells if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path} is not CSV in UTF-8: {error}") from error
    if not rows:
        raise BadData(f"{path} is empty")
    no_header = any(_is_number(cell) for cell in rows[0])
    names = _default_names(len(rows[0])) if no_header else [cell.strip() for cell in rows.pop(0)]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise BadData(f"{path}, row {number}: {len(row)} cells, expected {len(names)}")
    if len(set(names)) != len(names):
        raise BadData(f"{path} names a column twice in its header")
    return {name: np.array([row[i] for row in rows], dtype=object) for i, name in enumerate(names)}


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise BadData(
            f"{path}: reading Parquet needs pyarrow: pip install 'carryover-server[arrow]'"
        ) from error
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise BadData(f"{path} is damaged or not Parquet: {str(error).splitlines()[0]}") from error
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _read_npz(path: Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: Table = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} is damaged or not NPZ: {error}") from error
    names = arrays.pop("columns", None)
    table = _spread(arrays, path, None if names is None else [str(name) for name in np.atleast_1d(names)])
    if len({len(cells) for cells in table.values()}) > 1:
        raise BadData(f"{path} has arrays of different lengths")
    return table


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}


def _spread(arrays: Table, path: Path, names: list[str] | None) -> Table:
    """One-dimensional columns: each matrix [rows, columns] becomes its columns."""
    table: Table = {}
    for key, array in arrays.items():
        if array.ndim == 1:
            table[key] = array
        elif array.ndim == 2:
            column_names = names or [f"{key}{i}" for i in range(array.shape[1])]
            if len(column_names) != array.shape[1]:
                raise BadData(
                    f"{path}: {len(column_names)} names in columns, {array.shape[1]} columns in {key}"
                )
            table |= dict(zip(column_names, array.T, strict=True))
        else:
            raise BadData(
                f"{path}: array {key} has {array.ndim} dimensions, expected [rows] or [rows, columns]"
            )
    return table


def _default_names(count: int) -> list[str]:
    return ["value"] if count == 1 else [f"x{i}" for i in range(count)]


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _is_gap(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in GAPS)


def _numbers(cells: AnyArray, path: Path, name: str, gaps: bool = False) -> Doubles:
    if _look_like_times(cells):
        raise BadData(f"{path}, column {name!r} holds times; leave it out, or name it: --time-column {name}")
    if gaps and cells.dtype.kind == "O":
        cells = np.array([np.nan if _is_gap(cell) else cell for cell in cells], dtype=object)
    try:
        return cells.astype(np.float64)
    except (TypeError, ValueError) as error:
        row = next((i for i, cell in enumerate(cells) if not _is_number(cell)), 0)
        shown = "an empty cell" if cells[row] in ("", None) else repr(str(cells[row])[:40])
        hint = "; with --gaps it means not observed" if _is_gap(cells[row]) else ""
        raise BadData(f"{path}, row {row + 1}, column {name!r}: {shown} is not a number{hint}") from error


def _look_like_times(cells: AnyArray) -> bool:
    if cells.dtype.kind != "O":
        return cells.dtype.kind == "M"
    return len(cells) > 0 and not _is_number(cells[0]) and _parse_time(cells[0]) is not None


def _parse_time(cell: Any) -> np.datetime64 | None:
    try:
        moment = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
    except ValueError:
        return None
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment, "us")


def _times(cells: AnyArray, path: Path, name: str) -> Times:
    if cells.dtype.kind == "M":
        moments = cells.astype("datetime64[us]")
    elif _is_number(cells[0]):
        moments = (_numbers(cells, path, name) * 1e6).astype(np.int64).astype("datetime64[us]")
    else:
        moments = np.array([_parse_time(cell) for cell in cells], dtype="datetime64[us]")
    missing = np.flatnonzero(np.isnat(moments))
    if len(missing):
        row = int(missing[0])
        shown = repr(str(cells[row])[:40])
        raise BadData(f"{path}, row {row + 1}, column {name!r}: {shown} is not an ISO 8601 time")
    return moments
