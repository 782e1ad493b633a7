"""A table whose rows are read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Piece:
    """Some rows of a table.

    Attributes
    ----------
    first_row
        Number of the first, from 1.
    cells
        [columns] of pyarrow arrays [rows]: text as it was written, or numbers, or times.
    """

    first_row: int
    cells: list[Any]


@dataclass(frozen=True)
class Table:
    """A table that is being read.

    Attributes
    ----------
    source
        As messages name it.
    names
        Of the columns; made up where `has_names` is false.
    total
        Number of rows; None if it is not known.
    """

    source: str
    names: tuple[str, ...]
    pieces: Iterator[Piece]
    has_names: bool = True
    total: int | None = None


def find_twice(names: Sequence[str]) -> str | None:
    """The first name that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
