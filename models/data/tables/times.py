"""Cells -> times: ISO 8601, dates with the day or the month first, numbers since 1970, time zones.

A local time that a clock change repeats is its first pass until a time does not advance. If the hour is then
left without a second pass, its rows do not say which pass they were, and are refused.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Times
from models.data.tables.options import BadCell, TableOptions
from models.errors import BadData

CLOCK = r"(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp][Mm])?)?"
DAY_OR_MONTH = re.compile(rf"(\d{{1,2}})([./-])(\d{{1,2}})\2(\d{{4}}){CLOCK}")
YEAR_FIRST = re.compile(r"(\d{4})([-/])(\d{2})\2(\d{2})(?:[T ].*)?")
PLAIN_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?$"
DIGITS = re.compile(r"\d{9,19}(\.\d*)?")
# Largest number of each unit that a time since 1970 can have: until the year 5138.
UNITS = {
    "seconds": (1e11, 1e6),
    "milliseconds": (1e14, 1e3),
    "microseconds": (1e17, 1.0),
    "nanoseconds": (1e20, 1e-3),
}
EPOCHS = {
    "seconds": (6e8, 4.2e9),
    "milliseconds": (6e11, 4.2e12),
    "microseconds": (6e14, 4.2e15),
    "nanoseconds": (6e17, 4.2e18),
}
"""Numbers that look like times: from 1989 to 2103."""
COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Dates without separators by the number of their digits. As times since 1970 they are far from any data."""
TIME_NAME = re.compile(
    r"(.*[_ .-])?(time|timestamp|datetime|date|ts|epoch|unix|unixtime)([_ .(\[-].*)?", re.I
)
HOUR = timedelta(hours=1)


def is_time(cell: str) -> bool:
    """Whether a cell is a time that is written as text."""
    text = cell.strip()
    if YEAR_FIRST.fullmatch(text):
        return _iso(text) is not None
    match = DAY_OR_MONTH.fullmatch(text)
    return (
        match is not None
        and 1 <= min(int(match[1]), int(match[3])) <= 12
        and max(int(match[1]), int(match[3])) <= 31
    )


def holds_times(column: Any) -> bool:
    """Whether a pyarrow array [rows] has times, by its type or its first cell."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    return pa.types.is_string(kind) and len(column) > 0 and is_time(column[0].as_py() or "")


def epoch_unit(column: Any) -> str | None:
    """The unit of the first cell, if that looks like a time since 1970."""
    first = column[0].as_py() if len(column) else None
    if isinstance(first, str) and DIGITS.fullmatch(first.strip()):
        first = float(first)
    if isinstance(first, bool) or not isinstance(first, int | float):
        return None
    return next((unit for unit, (low, high) in EPOCHS.items() if low <= first <= high), None)


def time_zone(name: str | None) -> tzinfo | None:
    """The zone of this IANA name.

    Raises
    ------
    BadData
        There is no such zone.
    """
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadData(f"unknown time zone {name!r}; an example is Europe/Berlin") from error


class TimeReader:
    """Reads the column of times of one table, in the order of its rows."""

    def __init__(self, source: str, name: str, options: TableOptions) -> None:
        self.source = source
        self.name = name
        self.zone = time_zone(options.zone)
        self.zone_name = options.zone
        self.day_first = options.day_first
        self.unit: str | None = None  # of numbers
        self._evidence = "--day-first" if options.day_first else "--month-first"
        self._latest: datetime | None = None
        self._step: timedelta | None = None
        self._unconfirmed: tuple[int, datetime, bool] | None = None  # the first row of a repeated hour

    def read(self, column: Any, first_row: int) -> Times:
        """Times in UTC, [rows], of a pyarrow array [rows].

        Raises
        ------
        BadCell
            Names the row.
        """
        kind = column.type
        if pa.types.is_string(kind):
            column = pc.fill_null(pc.utf8_trim_whitespace(column), "")
            if self.unit or (len(column) and _number(column[0].as_py()) is not None):
                return self._epochs([_number(cell) for cell in column.to_pylist()], column, first_row)
            return self._texts(column, first_row)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return self._stamps(column, first_row)
        return self._epochs(column.to_pylist(), column, first_row)

    def finish(self) -> None:
        """Check what only the end of the table decides.

        Raises
        ------
        BadCell
            The table ends in a repeated hour, and nothing says which pass it was.
        """
        if self._unconfirmed is not None and not self._unconfirmed[2]:
            raise self._repeated(*self._unconfirmed[:2])

    def _texts(self, column: Any, first_row: int) -> Times:
        if self.zone is None and pc.all(pc.match_substring_regex(column, PLAIN_ISO)).as_py():
            try:
                times: Times = pc.cast(column, pa.timestamp("us")).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:
                pass  # read again one by one, to name the row
            else:
                return times.astype("datetime64[us]")
        moments = [self._moment(cell, first_row + row) for row, cell in enumerate(column.to_pylist())]
        return np.array(moments, dtype="datetime64[us]")

    def _stamps(self, column: Any, first_row: int) -> Times:
        self._check_complete(column, first_row)
        aware = pa.types.is_timestamp(column.type) and column.type.tz is not None
        times: Times = pc.cast(column, pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
        if aware or self.zone is None:
            return times.astype("datetime64[us]")
        locals_ = times.astype("datetime64[us]").tolist()
        moments = [self._note(self._localise(local, first_row + row)) for row, local in enumerate(locals_)]
        return np.array(moments, dtype="datetime64[us]")

    def _epochs(self, numbers: list[Any], column: Any, first_row: int) -> Times:
        if self.zone is not None:
            raise BadData(
                f"{self.source}, column {self.name!r}: a time zone is for times written as text; these "
                "numbers are UTC"
            )
        for row, number in enumerate(numbers):
            if not isinstance(number, int | float) or not abs(number) < UNITS["nanoseconds"][0]:
                raise self._no_time(column[row].as_py(), first_row + row)
        if self.unit is None and numbers:
            self._check_epoch(numbers[0], first_row)
            self.unit = next(unit for unit, (most, _) in UNITS.items() if abs(numbers[0]) < most)
        most, factor = UNITS[self.unit or "seconds"]
        for row, number in enumerate(numbers):
            if abs(number) >= most:
                raise self._no_time(
                    column[row].as_py(), first_row + row, f"in {self.unit}, as the first row has"
                )
        return np.rint(np.array(numbers, np.float64) * factor).astype(np.int64).astype("datetime64[us]")

    def _check_epoch(self, number: float, row: int) -> None:
        """Refuse a date without separators: read as seconds, 20240131 is in August 1970."""
        digits = f"{number:.0f}"
        form = COMPACT.get(len(digits))
        if form is None or number != int(number):
            return
        try:
            date = datetime.strptime(digits, form)  # noqa: DTZ007
        except ValueError:
            return
        if 1900 <= date.year < 2100:
            raise self._no_time(digits, row, f"since 1970 but a date without separators: write {date}")

    def _check_complete(self, column: Any, first_row: int) -> None:
        row = pc.index(pc.is_null(column), True).as_py()
        if row >= 0:
            raise self._no_time(None, first_row + row)

    def _no_time(self, cell: Any, row: int, why: str = "") -> BadCell:
        shown = "an empty cell" if cell in ("", None) else repr(str(cell)[:40])
        return self._error(row, f"{shown} is not a time{' ' + why if why else ''}")

    def _error(self, row: int, what: str) -> BadCell:
        return BadCell(f"{self.source}, row {row}, column {self.name!r}: {what}", row, self.name)

    def _moment(self, cell: str, row: int) -> datetime:
        """In UTC, without a zone."""
        local = _iso(cell) if YEAR_FIRST.fullmatch(cell) else self._day_or_month(cell, row)
        if local is None:
            raise self._no_time(cell, row)
        try:
            if local.tzinfo is not None:
                return self._note(local.astimezone(UTC).replace(tzinfo=None))
            return self._note(local if self.zone is None else self._localise(local, row))
        except OverflowError:  # in UTC it is before the year 1, or behind 9999
            raise self._no_time(cell, row) from None

    def _note(self, moment: datetime) -> datetime:
        if self._latest is not None:
            self._step = moment - self._latest
        self._latest = moment
        return moment

    def _day_or_month(self, cell: str, row: int) -> datetime | None:
        match = DAY_OR_MONTH.fullmatch(cell)
        if match is None:
            return None
        first, second = int(match[1]), int(match[3])
        if match[4] == "0000":
            return None
        if self.day_first is None and first != second:
            if first <= 12 and second <= 12:
                year = int(match[4])
                one, other = datetime(year, second, first), datetime(year, first, second)  # noqa: DTZ001
                raise self._error(
                    row,
                    f"{cell!r} is {one:%-d %B} or {other:%-d %B}; say which: --day-first or --month-first",
                )
            self.day_first = first > 12
            self._evidence = f"row {row}"
        day, month = (first, second) if self.day_first else (second, first)
        try:
            return _with_clock(int(match[4]), month, day, match)
        except ValueError:
            if (first <= 31 and second <= 12) or (first <= 12 and second <= 31):
                order = "the day" if self.day_first else "the month"
                raise self._no_time(cell, row, f"with {order} first, by {self._evidence}") from None
            return None

    def _localise(self, local: datetime, row: int) -> datetime:
        """The time in UTC, without a zone."""
        first, second = (
            local.replace(tzinfo=self.zone, fold=fold).astimezone(UTC).replace(tzinfo=None) for fold in (0, 1)
        )
        if first > second:
            raise self._error(
                row, f"{local} does not exist in {self.zone_name}, where the clock goes forward"
            )
        long_steps = self._step is not None and self._step > HOUR
        if first == second:
            if self._unconfirmed is not None and not long_steps:
                raise self._repeated(*self._unconfirmed[:2])
            self._unconfirmed = None
            return first
        latest = self._latest
        if latest is not None and first <= latest:
            self._unconfirmed = None
            return second
        if long_steps and latest is not None:
            if self._step == second - latest:
                return second
            if self._step != first - latest:
                raise self._repeated(row, local)
            return first
        if self._unconfirmed is None:
            regular = latest is not None and self._step == first - latest
            self._unconfirmed = row, local, regular
        return first

    def _repeated(self, row: int, local: datetime) -> BadCell:
        return self._error(
            row,
            f"{local} is twice in {self.zone_name}, where the clock goes back, and the order of the rows "
            "does not say which; write the times with their offset",
        )


def _iso(text: str) -> datetime | None:
    text = text.replace("/", "-")
    for ending in (" UTC", " GMT"):
        text = text.removesuffix(ending) + "+00:00" if text.endswith(ending) else text
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _with_clock(year: int, month: int, day: int, match: re.Match[str]) -> datetime:
    hour, minute, second = (int(match[group] or 0) for group in (5, 6, 7))
    half = (match[9] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(hour)
        hour = hour % 12 + 12 * (half == "pm")
    fraction = (match[8] or "").ljust(6, "0")[:6]
    return datetime(year, month, day, hour, minute, second, int(fraction))  # noqa: DTZ001


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
