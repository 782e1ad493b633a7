"""Rows of a CSV, a Parquet file or standard input, one by one: what `carryover stream` sends.

Unlike a training set, a stream may have holes: an empty cell, `NA` or `nan` is a missing observation.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from models.errors import BadData

MISSING = {"", "na", "n/a", "nan", "null", "none"}
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RowSource:
    """An open source.

    names : of its columns
    rows : a list of cells each
    total : how many there will be; None where nobody knows
    """

    names: tuple[str, ...]
    rows: Iterator[Sequence[Any]]
    total: int | None = None


@contextmanager
def open_rows(path: Path, standard_input: IO[str], *, follow: bool) -> Iterator[RowSource]:
    """Open a source by its name: `-` is standard input, .parquet Parquet, anything else CSV.

    Raises
    ------
    BadData : it cannot be read like that
    """
    if str(path) == "-":
        yield _csv(standard_input, None)
    elif path.suffix == ".parquet":
        with path.open("rb") as raw:
            yield _parquet(raw)
    else:
        with path.open(encoding="utf-8", newline="") as file:
            yield _csv(_growing(file), None) if follow else _csv(file, _counted(file))


def select_columns(
    source: RowSource, columns: Sequence[str], label: str | None
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """How a row's numbers are read, and its label.

    Parameters
    ----------
    columns : the inputs; where the source has just as many columns of other names, those are taken in order
    label : column that is written beside the predictions

    Raises
    ------
    BadData
    """
    names = list(source.names)
    if label is not None and label not in names:
        raise BadData(f"there is no column {label!r}; there are {', '.join(names)}")
    others = [name for name in names if name != label]
    missing = [name for name in columns if name not in names]
    if missing and len(others) != len(columns):
        told = f"the model reads {', '.join(columns)}; the columns are {', '.join(names)}"
        raise BadData(f"{told}: name them with --columns")
    places = [names.index(name) for name in (others if missing else columns)]
    place = None if label is None else names.index(label)

    def observation(row: Sequence[Any]) -> list[float | None]:
        return [_number(row, place, names) for place in places]

    return observation, lambda row: None if place is None else row[place]


def _csv(file: Iterator[str] | IO[str], lines: int | None) -> RowSource:
    reader = csv.reader(file)
    first = next((row for row in reader if row), None)
    if first is None:
        raise BadData("there are no rows")
    rows = (row for row in reader if row)
    if all(_is_number(cell) for cell in first):
        names = ("value",) if len(first) == 1 else tuple(f"x{place}" for place in range(len(first)))
        return RowSource(names, chain([first], rows), lines)
    return RowSource(tuple(name.strip() for name in first), rows, None if lines is None else lines - 1)


def _counted(file: IO[str]) -> int:
    lines = sum(1 for line in file if line.strip())
    file.seek(0)
    return lines


def _parquet(raw: IO[bytes]) -> RowSource:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise BadData("Parquet needs pyarrow: pip install 'carryover-server[arrow]'") from None
    file = pq.ParquetFile(raw)
    names = tuple(file.schema_arrow.names)
    rows = (
        row
        for batch in file.iter_batches()
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    return RowSource(names, rows, file.metadata.num_rows)


def _growing(file: IO[str]) -> Iterator[str]:
    """Whole lines, as they are written; it never ends by itself."""
    held = ""
    while True:
        held += file.readline()
        if held.endswith("\n"):
            yield held
            held = ""
        else:
            time.sleep(POLL_SECONDS)


def _number(row: Sequence[Any], place: int, names: Sequence[str]) -> float | None:
    cell = row[place] if place < len(row) else None
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise BadData(f"column {names[place]!r} has {cell!r}, which is not a number") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in MISSING
    return True
