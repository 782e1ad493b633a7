"""Text in CSV -> the names of its columns, and pieces of cells, each as it was written.

pyarrow splits rows into cells. It was chosen by import time and memory, measured beside numpy on one machine:
pyarrow 71 ms of CPU and 36 MB, polars 149 ms and 35 MB, pandas 385 ms and 76 MB. A row with too few cells is
an error for pyarrow alone; the others fill it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.csv

from models.data.tables.numbers import is_gap, is_number
from models.data.tables.options import BadCell, TableOptions
from models.data.tables.pieces import Piece, Table, find_twice
from models.data.tables.times import is_time
from models.errors import BadData

SEPARATORS = ("\t", ";", ",", "|")
LINE_ENDS = re.compile(r"[\r\n]+")
MAX_CELL = 2**22  # characters of a row that has not ended
MAX_COLUMNS = 10_000


def read_csv(
    texts: Iterable[str], options: TableOptions, source: str, max_columns: int = MAX_COLUMNS
) -> Table:
    """Read the header, and prepare to read the rows.

    Parameters
    ----------
    texts
        Read as far as the rows are asked for.
    source
        As messages name it.
    max_columns
        A table with more is refused before it is split.

    Raises
    ------
    BadData
        There are no rows, the header names a column twice, or, while the rows are read, one has another
        number of cells, or the quotes do not match.
    """
    pieces = _whole_rows(iter(texts), source)
    first = ""
    for more in pieces:
        first = (first + more).lstrip("\r\n")
        if _shows_its_form(first, max_columns, source):
            break
    lines = _first_lines(first)
    if not lines:
        raise BadData(f"{source} is empty")
    separator = options.separator or _find_separator(lines, options.decimal)
    cells = _split(lines[0], separator, source)
    has_header = _is_header(cells) if options.header is None else options.header
    if has_header and len(lines) > 1 and len(cells) < (width := len(_cells(lines[1], separator))):
        raise BadCell(
            f"{source}, row 1: {width} cells, expected {len(cells)}, as there are names in the first line, "
            f"{lines[0][:60]!r}; remove what stands above the names",
            1,
        )
    names = [cell.strip() for cell in cells] if has_header else _made_up(len(cells))
    if (twice := find_twice(names)) is not None:
        raise BadData(f"{source} names a column twice in its header: {twice[:40]!r}")
    rows = _pieces(chain([first], pieces), separator, len(names), has_header, source)
    return Table(source, tuple(names), rows, has_names=has_header)


def _made_up(count: int) -> list[str]:
    return ["value"] if count == 1 else [f"x{i}" for i in range(count)]


def _whole_rows(texts: Iterator[str], source: str) -> Iterator[str]:
    """Text cut behind the ends of rows. A line end within quotes does not end a row."""
    rest = ""
    for text in texts:
        rest += text
        end = rest.rfind("\n") + 1
        if end and rest.count('"', 0, end) % 2 == 0:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > MAX_CELL:
            raise BadData(
                f"{source} is not CSV: a row is longer than {MAX_CELL} characters, or a quote never ends"
            )
    if rest.count('"') % 2:
        raise BadData(f"{source} is not CSV: a quote never ends")
    if rest:
        yield rest


def _shows_its_form(text: str, max_columns: int, source: str) -> bool:
    """Whether this text is enough to find separator and header: two rows, or one row of data."""
    lines = _first_lines(text)
    for line in lines:
        if max(map(line.count, SEPARATORS)) >= max_columns:
            raise BadData(f"{source} has more than {max_columns} columns")
    if len(lines) != 1:
        return len(lines) > 1
    return any(not _is_header(_cells(lines[0], separator)) for separator in SEPARATORS)


def _first_lines(text: str) -> list[str]:
    """The first two rows of the text that are not blank."""
    lines: list[str] = []
    start, row = 0, 0
    while start < len(text) and len(lines) < 2:
        end = LINE_ENDS.search(text, start)
        stop = end.start() if end else len(text)
        start = end.end() if end else len(text)
        if text.count('"', row, stop) % 2 == 0:
            lines.append(text[row:stop])
            row = start
    return lines


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(line), delimiter=separator), [])


def _split(line: str, separator: str, source: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=separator, strict=True))
    except csv.Error as error:
        raise BadData(f"{source} is not CSV: {error}") from error


def _find_separator(lines: list[str], decimal: str | None) -> str:
    """The separator that makes rows of one length, and leaves the fewest of the others in cells of text.

    Where decimals are written with a comma, a comma separates nothing: `0,5` is one cell.
    """
    possible = [one for one in SEPARATORS if one != decimal]

    def score(separator: str) -> tuple[bool, int]:
        rows = [_cells(line, separator) for line in lines]
        left = sum(
            cell.count(other)
            for cell in chain(*rows)
            if not (is_number(cell) or is_time(cell))
            for other in possible
        )
        return len({len(row) for row in rows}) > 1, left

    usual = "," if decimal != "," else ";"
    return min((one for one in possible if one in lines[0]), key=score, default=usual)


def _is_header(cells: list[str]) -> bool:
    """Whether these are names: no cell is a number or a time, and not all are gaps."""
    return not any(is_number(cell) or is_time(cell) for cell in cells) and not all(map(is_gap, cells))


def _pieces(
    texts: Iterable[str], separator: str, width: int, has_header: bool, source: str
) -> Iterator[Piece]:
    first_row, header = 1, has_header
    for text in texts:
        if not text.strip("\r\n"):
            continue
        if '"' in text:
            _check_quotes(text, separator, first_row - header, source)
        cells = _parse(text, separator, width, first_row - header, source)
        if header:
            cells = [column.slice(1) for column in cells]
            header = False
        if len(cells[0]):
            yield Piece(first_row, cells)
        first_row += len(cells[0])


def _parse(text: str, separator: str, width: int, first_row: int, source: str) -> list[Any]:
    """[columns] of pyarrow's strings; `first_row` is the number of the first row."""
    data = text.encode()
    names = [str(i) for i in range(width)]
    wrong: list[BadCell] = []

    def refuse(row: Any) -> str:
        number = first_row + row.number - 1
        wrong.append(BadCell(f"{source}, row {number}: {row.actual_columns} cells, expected {width}", number))
        return "error"

    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=names, block_size=len(data) + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=refuse
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise (wrong[0] if wrong else BadData(f"{source} is not CSV: {error}")) from error
    return [column.combine_chunks() for column in table.columns]


def _check_quotes(text: str, separator: str, first_row: int, source: str) -> None:
    """Refuse a quote that neither begins nor ends a cell: pyarrow would read `"2"5` as 25."""
    between = re.escape(separator)
    cell = re.compile(rf'(?:(?<=[{between}\r\n])|\A)"(?:[^"]|"")*"(?=[{between}\r\n]|\Z)')
    rest = cell.sub("", text)
    if '"' in rest:
        line = rest[: rest.index('"')].count("\n") + first_row
        raise BadCell(f"{source} is not CSV: there is a stray quote near row {max(line, 1)}", max(line, 1))
