"""Cells -> numbers: gaps, decimal marks, groups of thousands.

`1,234` is 1.234 or 1234. Which it is, the first number with a decimal mark says. If it comes before any, it
is refused, and so is a later number that contradicts the first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Bools, Doubles
from models.data.tables.options import BadCell, TextCell
from models.data.tables.times import is_time

GAPS = frozenset((
    "", "nan", "-nan", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "null", "none", "-", "--",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
))  # fmt: skip
"""Not observed, in upper or lower case."""

SPACES = " \u00a0\u202f'\u2019"  # between thousands, as well as a comma or a point
EXPONENT = r"([eE][+-]?[0-9]+)?"
PLAIN = rf"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+){EXPONENT}$|^[+-]?(?i:inf|infinity)$"
AMBIGUOUS = r"^[+-]?[1-9][0-9]{0,2},[0-9]{3}$"
WITH_POINT = (
    rf"^[+-]?([0-9]+\.[0-9]*|\.[0-9]+){EXPONENT}$"
    rf"|^[+-]?[0-9]{{1,3}}([,{SPACES}][0-9]{{3}})+\.[0-9]*$|^[+-]?[0-9]{{1,3}}(,[0-9]{{3}}){{2,}}$"
)
WITH_COMMA = (
    rf"^[+-]?[0-9]*,([0-9]{{0,2}}|[0-9]{{4,}}){EXPONENT}$|^[+-]?(0[0-9]*|[0-9]{{4,}})?,[0-9]+{EXPONENT}$"
    rf"|^[+-]?[0-9]+,[0-9]+[eE][+-]?[0-9]+$"
    rf"|^[+-]?[0-9]{{1,3}}([.{SPACES}][0-9]{{3}})+,[0-9]*$|^[+-]?[0-9]{{1,3}}(\.[0-9]{{3}}){{2,}}$"
)
WITH_SPACES = rf"^[+-]?[0-9]{{1,3}}([{SPACES}][0-9]{{3}})+$"
FORMS = (PLAIN, AMBIGUOUS, WITH_POINT, WITH_COMMA, WITH_SPACES)
NUMBER = re.compile("|".join(FORMS))
GROUPS = {".": f",{SPACES}", ",": f".{SPACES}"}  # by the decimal mark


def is_gap(cell: str) -> bool:
    """Whether a cell says that nothing was observed."""
    return cell.strip().lower() in GAPS


def is_number(cell: str) -> bool:
    """Whether a cell can be a number, with either decimal mark."""
    return NUMBER.match(cell.strip()) is not None


class NumberReader:
    """Reads the cells of one table; remembers its decimal mark.

    Parameters
    ----------
    decimal
        A point or a comma; None: the first number with a mark decides.
    gaps
        Whether a cell may be a gap.
    """

    def __init__(self, source: str, decimal: str | None, *, gaps: bool) -> None:
        self.source = source
        self.decimal = decimal
        self.gaps = gaps
        self.evidence = f"--decimal {decimal}"

    def read(self, columns: Sequence[Any], names: Sequence[str], first_row: int) -> Doubles:
        """Numbers; NaN for a gap.

        Parameters
        ----------
        columns
            pyarrow arrays [rows], of text or numbers.

        Returns
        -------
        [rows, columns]

        Raises
        ------
        BadCell
            Names row and column.
        """
        texts = [_trimmed(column) if pa.types.is_string(column.type) else None for column in columns]
        if self.decimal is None:
            self._decide(texts, names, first_row)
        values = np.empty((len(columns[0]), len(columns)))
        bad = np.zeros(values.shape, bool)
        for j, (column, text) in enumerate(zip(columns, texts, strict=True)):
            values[:, j], bad[:, j] = self._numbers(text) if text is not None else _typed(column)
        bad |= np.isinf(values) if self.gaps else ~np.isfinite(values)
        if bad.any():
            row, j = (int(index) for index in np.argwhere(bad)[0])
            raise self._error(columns[j][row].as_py(), values[row, j], first_row + row, names[j])
        return values

    def _decide(self, texts: Sequence[Any], names: Sequence[str], first_row: int) -> None:
        found = []
        for j, text in enumerate(texts):
            for mark, pattern in (("?", AMBIGUOUS), (".", WITH_POINT), (",", WITH_COMMA)):
                row = -1 if text is None else pc.index(pc.match_substring_regex(text, pattern), True).as_py()
                if row >= 0:
                    found.append((row, j, mark))
        if not found:
            return
        row, j, mark = min(found)
        cell, row = texts[j][row].as_py(), row + first_row
        if mark == "?":
            raise BadCell(
                f"{self.source}, row {row}, column {names[j]!r}: {cell!r} is {cell.replace(',', '.')} or "
                f"{cell.replace(',', '')}; say which: --decimal , or --decimal .",
                row,
                names[j],
            )
        self.decimal = mark
        self.evidence = f"{cell!r} in row {row}"

    def _numbers(self, text: Any) -> tuple[Doubles, Bools]:
        """[rows] numbers, and [rows] whether a cell is no number. Gaps are NaN."""
        decimal = self.decimal or "."
        gaps = pc.is_in(pc.utf8_lower(text), pa.array(sorted(GAPS)))
        text = pc.if_else(gaps, pa.scalar(None, pa.string()), text)
        grouped = pc.fill_null(pc.match_substring_regex(text, rf"[{GROUPS[decimal]}]"), False)
        bad = np.zeros(len(text), bool)
        if pc.any(grouped).as_py():
            group = re.escape(GROUPS[decimal])
            whole = rf"^[+-]?[0-9]{{1,3}}([{group}][0-9]{{3}})+({re.escape(decimal)}[0-9]*)?$"
            correct = pc.fill_null(pc.match_substring_regex(text, whole), False)
            bad |= _bools(grouped) & ~_bools(correct)
            text = pc.if_else(correct, pc.replace_substring_regex(text, rf"[{group}]", ""), text)
        if decimal == ",":
            text = pc.replace_substring(text, ",", ".")
        correct = pc.fill_null(pc.match_substring_regex(text, PLAIN), True)
        bad |= ~_bools(correct)
        text = pc.if_else(pa.array(~bad), text, pa.scalar(None, pa.string()))
        return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False), bad

    def _error(self, cell: Any, value: float, row: int, name: str) -> BadCell:
        where = f"{self.source}, row {row}, column {name!r}"
        if np.isinf(value):
            return BadCell(f"{where}: {value} is not finite", row, name)
        if isinstance(cell, date) or (isinstance(cell, str) and is_time(cell)):
            return BadCell(f"{where} holds times; leave it out, or name it: --time-column {name}", row, name)
        gap = cell is None or (isinstance(cell, str) and is_gap(cell)) or cell != cell
        if gap:
            shown = "an empty cell" if cell in ("", None) else repr(cell)
            return BadCell(f"{where}: {shown} is not a number; with --gaps it means not observed", row, name)
        shown = repr(str(cell)[:40])
        if isinstance(cell, str) and is_number(cell):
            words = {".": "a decimal point", ",": "a decimal comma"}[self.decimal or "."]
            return BadCell(
                f"{where}: {shown} does not fit: numbers have {words}, by {self.evidence}; say --decimal",
                row,
                name,
            )
        return TextCell(f"{where}: {shown} is not a number", row, name)


def _trimmed(column: Any) -> Any:
    return pc.fill_null(pc.utf8_trim_whitespace(column), "")


def _typed(column: Any) -> tuple[Doubles, Bools]:
    kind = column.type
    is_numeric = (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )  # fmt: skip
    if not is_numeric:
        return np.full(len(column), np.nan), np.ones(len(column), bool)
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    numbers = pc.cast(column, pa.float64(), safe=False)
    return numbers.to_numpy(zero_copy_only=False), np.zeros(len(column), bool)


def _bools(column: Any) -> Bools:
    values: Bools = column.to_numpy(zero_copy_only=False)
    return values
