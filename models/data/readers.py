"""CSV, Parquet and NPZ files -> Series.

Each format is first read into named columns of cells. The rules for cells are the same for all formats.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from models.arrays import AnyArray, Doubles, Times
from models.data.csv_rules import is_gap, is_number, read_rows
from models.data.series import Series
from models.errors import BadData
from models.installation import install_command

Table = dict[str, AnyArray]

INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # what pandas calls an index in a file


@dataclass(frozen=True)
class TimeOptions:
    """How the column of times is read.

    Attributes
    ----------
    column
        Its name; without it, the first column of ISO 8601 times, if there is one. Numbers are seconds since
        1970, UTC.
    zone
        Time zone (IANA name) of times that are written without an offset; without it, UTC.
    ignored
        Leave the column out, so that the series has no times.
    """

    column: str | None = None
    zone: str | None = None
    ignored: bool = False


NO_OPTIONS = TimeOptions()


def read_series(
    path: Path,
    columns: Sequence[str] | None = None,
    times: TimeOptions = NO_OPTIONS,
    gaps: bool = False,
) -> Series:
    """Read a file.

    Parameters
    ----------
    path
        `.csv` (comma, semicolon or tab; a first row without a number is the header), `.parquet`, or `.npz`
        (each array a column, or one array [rows, columns] and perhaps the names in an array `columns`).
    columns
        Which to read, in this order; without it, all but the time column. An index that pandas wrote is then
        refused: it would become an input.
    times
        How the column of times is read.
    gaps
        Whether an empty cell (or another of `csv_rules.GAPS`) means that nothing was observed; without, it is
        refused.

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
    time_column = times.column or next(
        (name for name, cells in table.items() if _look_like_times(cells)), None
    )
    names = columns or [name for name in table if name != time_column]
    if not columns:
        _check_index(path, names)
    if times.ignored:
        time_column = None
    for name in (*names, *([time_column] if time_column else [])):
        if name not in table:
            raise BadData(f"{path} has no column {name!r}; it has {', '.join(table)}")
    if not names or not len(table[names[0]]):
        raise BadData(f"{path} has no {'columns of numbers' if not names else 'rows'}")
    values = np.stack([_numbers(table[name], path, name, gaps) for name in names], axis=1)
    moments = _times(table[time_column], path, time_column, times.zone) if time_column else None
    return Series(str(path), tuple(names), values, moments, gaps=gaps)


def _check_index(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if INDEX.fullmatch(name):
            shown = repr(name) if name else "without a name"
            raise BadData(
                f"{path} has a column {shown}, as pandas writes its index: name the columns to read with "
                "--columns, or write the file with index=False"
            )


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8", newline="") as file:
        table = read_rows(file, str(path))
        rows = list(table.rows)
    return {name: np.array([row[i] for row in rows], dtype=object) for i, name in enumerate(table.names)}


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise BadData(f"{path}: reading Parquet needs pyarrow: {install_command('arrow')}") from error
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


def _numbers(cells: AnyArray, path: Path, name: str, gaps: bool = False) -> Doubles:
    if _look_like_times(cells):
        raise BadData(f"{path}, column {name!r} holds times; leave it out, or name it: --time-column {name}")
    if gaps and cells.dtype.kind == "O":
        cells = np.array([np.nan if is_gap(cell) else cell for cell in cells], dtype=object)
    try:
        return cells.astype(np.float64)
    except (TypeError, ValueError) as error:
        row = next((i for i, cell in enumerate(cells) if not is_number(cell)), 0)
        shown = "an empty cell" if cells[row] in ("", None) else repr(str(cells[row])[:40])
        hint = "; with --gaps it means not observed" if is_gap(cells[row]) else ""
        raise BadData(f"{path}, row {row + 1}, column {name!r}: {shown} is not a number{hint}") from error


def _look_like_times(cells: AnyArray) -> bool:
    if cells.dtype.kind != "O":
        return cells.dtype.kind == "M"
    return len(cells) > 0 and not is_number(cells[0]) and _parse_time(cells[0]) is not None


def _parse_time(cell: Any) -> datetime | None:
    try:
        return cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
    except ValueError:
        return None


def _time_zone(name: str | None) -> tzinfo:
    try:
        return UTC if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadData(f"unknown time zone {name!r}; an example is Europe/Berlin") from error


def _in_utc(cells: AnyArray, zone: tzinfo) -> list[datetime | None]:
    """The times as naive datetimes in UTC; None for a cell that is not a time.

    The hour that a clock change repeats is read as its first pass until a time does not advance.
    """
    times: list[datetime | None] = []
    latest = datetime.min.replace(tzinfo=UTC)
    for cell in cells:
        local = _parse_time(cell)
        if local is None:
            times.append(None)
            continue
        moment = (local if local.tzinfo else local.replace(tzinfo=zone)).astimezone(UTC)
        if moment <= latest and not local.tzinfo:
            moment = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
        latest = moment
        times.append(moment.replace(tzinfo=None))
    return times


def _times(cells: AnyArray, path: Path, name: str, zone: str | None) -> Times:
    if zone is not None and (cells.dtype.kind == "M" or is_number(cells[0])):
        raise BadData(f"{path}, column {name!r}: a time zone is for times written as text; these are UTC")
    if cells.dtype.kind == "M":
        moments = cells.astype("datetime64[us]")
    elif is_number(cells[0]):
        moments = (_numbers(cells, path, name) * 1e6).astype(np.int64).astype("datetime64[us]")
    else:
        moments = np.array(_in_utc(cells, _time_zone(zone)), dtype="datetime64[us]")
    missing = np.flatnonzero(np.isnat(moments))
    if len(missing):
        row = int(missing[0])
        shown = repr(str(cells[row])[:40])
        raise BadData(f"{path}, row {row + 1}, column {name!r}: {shown} is not an ISO 8601 time")
    return moments
