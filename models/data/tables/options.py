"""How a table is read, as the user says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.errors import BadData


class BadCell(BadData):
    """A cell that cannot be read.

    Attributes
    ----------
    row
        From 1, below the header.
    column
        Name of the column; None where the whole row is wrong.
    """

    def __init__(self, message: str, row: int, column: str | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class TextCell(BadCell):
    """A cell that holds a text, where a number or a time is read."""


@dataclass(frozen=True)
class TableOptions:
    """What the table itself does not say, or says wrongly.

    Attributes
    ----------
    encoding
        Of text, as Python names it.
    separator, decimal
        One character each; without them, found from the text.
    header
        Whether the first row has the names; without it, a first row without a number or a time has them.
    time_column
        Its name; without it, the first column whose first cell is a time.
    no_times
        Leave the times out.
    zone
        Time zone (IANA name) of times that are written without an offset; without it, UTC.
    day_first
        Whether 03/04/2024 is the third of April; without it, such a date is refused.
    names
        New names by old names of columns.
    ignored
        Columns that are not read, by their new names; also not as times.
    """

    encoding: str = "utf-8"
    separator: str | None = None
    decimal: str | None = None
    header: bool | None = None
    time_column: str | None = None
    no_times: bool = False
    zone: str | None = None
    day_first: bool | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise BadData(f"the decimal mark is a point or a comma, not {self.decimal!r}")
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise BadData(f"the separator is one character, not {self.separator!r}")
        if self.separator is not None and self.separator == self.decimal:
            raise BadData("the separator and the decimal mark must differ")
        if self.time_column is not None and self.time_column in self.ignored:
            raise BadData(f"{self.time_column!r} is both the column of times and ignored")


NO_OPTIONS = TableOptions()
