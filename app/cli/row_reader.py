"""Rows of a CSV or Parquet file or of standard input, one by one, for `carryover stream`.

A stream may have gaps: an empty cell, `NA` or `nan` is a missing observation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.data.csv_rules import is_gap, read_rows
from models.errors import BadData
from models.installation import install_command

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RowSource:
    """An open file.

    names : of its columns
    rows : each a list of cells
    total : number of rows; None if it is unknown
    """

    names: tuple[str, ...]
    rows: Iterator[Sequence[Any]]
    total: int | None = None


@contextmanager
def open_rows(path: Path, standard_input: IO[str], *, follow: bool) -> Iterator[RowSource]:
    """Open a file by its name: `-` is standard input, .parquet Parquet, anything else CSV.

    Raises
    ------
    BadData : the file is empty or not CSV, or pyarrow is missing; while rows are read, one has another length
    """
    if str(path) == "-":
        yield _csv(standard_input, "standard input")
    elif path.suffix == ".parquet":
        with path.open("rb") as raw:
            yield _parquet(raw)
    else:
        with path.open(encoding="utf-8", newline="") as file:
            yield _csv(_follow(file), str(path)) if follow else _csv(file, str(path), _count_lines(path))


def select_columns(
    source: RowSource, columns: Sequence[str], label: str | None
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Functions that return the numbers of a row, and its label.

    Parameters
    ----------
    columns : the inputs; if the file has as many columns, all with other names, they are taken in order
    label : column that is copied to the predictions

    Raises
    ------
    BadData
    """
    names = list(source.names)
    if label is not None and label not in names:
        raise BadData(f"there is no column {label!r}; there are {', '.join(names)}")
    others = [name for name in names if name != label]
    missing = [name for name in columns if name not in names]
    if missing and (len(others) != len(columns) or len(missing) < len(columns)):
        text = f"the model reads {', '.join(columns)}; the columns are {', '.join(names)}"
        raise BadData(f"{text}: name them with --columns")
    indices = [names.index(name) for name in (others if missing else columns)]
    label_index = None if label is None else names.index(label)

    def observation(row: Sequence[Any]) -> list[float | None]:
        return [_number(row, index, names) for index in indices]

    return observation, lambda row: None if label_index is None else row[label_index]


def _csv(file: Iterator[str] | IO[str], source: str, lines: int | None = None) -> RowSource:
    table = read_rows(file, source)
    return RowSource(table.names, table.rows, None if lines is None else lines - table.has_header)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _parquet(raw: IO[bytes]) -> RowSource:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise BadData(f"Parquet needs pyarrow: {install_command('arrow')}") from None
    file = pq.ParquetFile(raw)
    names = tuple(file.schema_arrow.names)
    rows = (
        row
        for batch in file.iter_batches()
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    return RowSource(names, rows, file.metadata.num_rows)


def _follow(file: IO[str]) -> Iterator[str]:
    """Complete lines as they are written, without end."""
    line = ""
    while True:
        line += file.readline()
        if line.endswith("\n"):
            yield line
            line = ""
        else:
            time.sleep(POLL_SECONDS)


def _number(row: Sequence[Any], index: int, names: Sequence[str]) -> float | None:
    cell = row[index] if index < len(row) else None
    if cell is None or is_gap(cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise BadData(f"column {names[index]!r} has {cell!r}, which is not a number") from None
