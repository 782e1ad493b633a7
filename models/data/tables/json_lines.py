"""JSON Lines: an object a line, its numbers by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from models.data.tables.options import BadCell
from models.data.tables.pieces import Piece, Table, find_twice
from models.errors import BadData

MAX_LINE = 2**22  # characters


class _NameTwice(Exception):
    """An object has a name twice; which of the values is meant?"""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise _NameTwice(find_twice([name for name, _ in pairs]))
    return document


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def read_json_lines(texts: Iterable[str], source: str) -> Table:
    """Read the names in the first line, and prepare to read the rows.

    Raises
    ------
    BadData
        There are no rows, or, while the rows are read, a line is no object, or has a name that the first
        line has not. A name that is missing is a gap.
    """
    groups = _whole_lines(iter(texts), source)
    first = next(groups, None)
    if first is None:
        raise BadData(f"{source} is empty")
    names = tuple(_parse(first[0], 1, source))
    return Table(source, names, _pieces(chain([first], groups), names, source))


def _whole_lines(texts: Iterator[str], source: str) -> Iterator[list[str]]:
    """Lines that are not blank, as many as are there."""
    rest = ""
    for text in chain(texts, ["\n"]):
        *whole, rest = (rest + text).split("\n")
        if len(rest) > MAX_LINE:
            raise BadData(f"{source} is not JSON Lines: a line is longer than {MAX_LINE} characters")
        if lines := [line for line in whole if line.strip()]:
            yield lines


def _pieces(groups: Iterable[list[str]], names: tuple[str, ...], source: str) -> Iterator[Piece]:
    first_row, known = 1, set(names)
    for lines in groups:
        objects = [_parse(line, first_row + i, source) for i, line in enumerate(lines)]
        for i, document in enumerate(objects):
            for name in document.keys() - known:
                raise BadCell(
                    f"{source}, row {first_row + i} has {name!r}, which row 1 has not: give it there, "
                    "with null if it was not observed",
                    first_row + i,
                    name,
                )
        yield Piece(first_row, [_column([each.get(name) for each in objects]) for name in names])
        first_row += len(objects)


def _parse(line: str, row: int, source: str) -> dict[str, Any]:
    try:
        document = DECODER.decode(line)
    except _NameTwice as error:
        raise BadCell(f"{source}, row {row} has {str(error)!r} twice", row, str(error)) from None
    except (ValueError, RecursionError) as error:
        raise BadCell(f"{source}, row {row} is not JSON: {error}", row) from error
    if not isinstance(document, dict):
        raise BadCell(f"{source}, row {row} is not a JSON object", row)
    return document


def _column(cells: list[Any]) -> Any:
    if all(cell is None or type(cell) in (int, float) for cell in cells):
        with contextlib.suppress(OverflowError):  # then as text: the message shows its beginning
            return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    texts = [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
    return pa.array(texts, pa.string())
