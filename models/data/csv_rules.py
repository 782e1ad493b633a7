"""How a CSV is read, by `carryover train` and `carryover stream` alike: delimiter, header, gaps, rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from models.errors import BadData

DELIMITERS = ",;\t"
GAPS = frozenset(("", "nan", "na", "n/a", "null", "none"))  # upper or lower case: not observed


@dataclass(frozen=True)
class CsvTable:
    """A CSV whose rows are read one by one.

    names : of the columns
    rows : those below the header, blank lines left out
    """

    names: tuple[str, ...]
    rows: Iterator[list[str]]
    has_header: bool


def read_rows(lines: Iterable[str], source: str) -> CsvTable:
    """Read the header, and prepare to read the rows.

    Parameters
    ----------
    lines
        Read as far as the rows are asked for.
    source
        As messages name it.

    Raises
    ------
    BadData
        There are no rows, the header names a column twice, or, while the rows are read, one has another
        number of cells, or the text is not CSV in UTF-8.
    """
    rows = _parse(iter(lines), source)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{source} is empty")
    names = _header(first)
    has_header = names is not None
    if names is None:
        names = ["value"] if len(first) == 1 else [f"x{i}" for i in range(len(first))]
        rows = chain([first], rows)
    if len(set(names)) != len(names):
        raise BadData(f"{source} names a column twice in its header")
    return CsvTable(tuple(names), _of_length(rows, len(names), source), has_header)


def is_number(cell: Any) -> bool:
    """Whether Python reads the cell as a float; NaN counts."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def is_gap(cell: Any) -> bool:
    """Whether the cell says that nothing was observed."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in GAPS)


def _parse(lines: Iterator[str], source: str) -> Iterator[list[str]]:
    try:
        first = next((line for line in lines if line.strip("\ufeff \t\r\n")), "")
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(chain([first.removeprefix("\ufeff")], lines), delimiter=delimiter, strict=True)
        yield from (row for row in reader if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{source} is not CSV in UTF-8: {error}") from error


def _header(first: Sequence[str]) -> list[str] | None:
    """The names in the first row; None if it is data: a cell is a number, or every cell is a gap."""
    if any(is_number(cell) for cell in first) or all(is_gap(cell) for cell in first):
        return None
    return [cell.strip() for cell in first]


def _of_length(rows: Iterable[list[str]], length: int, source: str) -> Iterator[list[str]]:
    for number, row in enumerate(rows, start=1):
        if len(row) != length:
            raise BadData(f"{source}, row {number}: {len(row)} cells, expected {length}")
        yield row
