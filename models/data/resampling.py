"""Rows at any times -> one row for each step: the mean of those in it, or a gap."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from models.arrays import Doubles
from models.errors import BadData

if TYPE_CHECKING:
    from models.data.series import Series

SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
STEP = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|min|h|d)", re.I)
MAX_EMPTY = 10_000_000  # bins without a row


def parse_step(text: str) -> float:
    """The seconds of a step such as `10min`, `30s`, `1h`, `1d`.

    Raises
    ------
    BadData
        It is none.
    """
    match = STEP.fullmatch(text.strip())
    seconds = float(match[1]) * SECONDS[match[2].lower()] if match else 0.0
    if not seconds >= 0.001:
        raise BadData(f"{text!r} is not a step; examples are 30s, 10min, 1h and 1d")
    return seconds


def format_step(seconds: float) -> str:
    """A step as `parse_step` reads it."""
    for unit in ("d", "h", "min", "s"):
        if seconds >= SECONDS[unit] and seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:.0f}{unit}"
    return f"{max(seconds * 1000, 1):.0f}ms"


def order_error(place: str, time: object, before: object, seconds: float) -> BadData:
    """The error of a row whose time is before that of the row before it.

    Parameters
    ----------
    place
        Of the row: its source and number.
    time, before
        Its time and that of the row before it, as the message shows them.
    seconds
        From one to the other.
    """
    hint = "sort the rows by time"
    if seconds <= SECONDS["h"]:
        hint += ", or, for local times across a clock change, name their --timezone"
    return BadData(f"{place}: time {time} is before {before}; {hint}")


class Resampler:
    """Makes a row for each step out of rows that come one by one, in the order of time.

    A bin is complete, and given out, when a row of a later one comes. Steps count from 1970, UTC, so the bins
    do not depend on the first row.

    Parameters
    ----------
    step
        In seconds.

    Attributes
    ----------
    empty
        Bins that had no row.
    """

    def __init__(self, source: str, step: float) -> None:
        self.source = source
        self.step = round(step * 1e6)
        self.empty = 0
        self._bin: int | None = None
        self._rows: list[Doubles] = []
        self._last = self._taken = 0

    def add(self, microseconds: int, values: Doubles) -> Iterator[tuple[int, Doubles]]:
        """Take a row, values [columns]; give out the time, in microseconds, and values of complete bins.

        Raises
        ------
        BadData
            The row is before the one before it, or too many bins are empty.
        """
        number = microseconds // self.step
        if self._bin is not None and number != self._bin:
            if number < self._bin:
                time, before = (np.datetime64(each, "us") for each in (microseconds, self._last))
                back = (self._last - microseconds) / 1e6
                raise order_error(f"{self.source}, row {self._taken + 1}", time, before, back)
            yield from self.finish()
            missing = number - self._bin - 1
            self.empty += missing
            if self.empty > MAX_EMPTY:
                raise BadData(
                    f"{self.source}: more than {MAX_EMPTY:,} steps have no row; use a longer --resample"
                )
            for between in range(self._bin + 1, number):
                yield between * self.step, np.full(len(values), np.nan)
        self._bin, self._last = number, microseconds
        self._taken += 1
        self._rows.append(values)

    def finish(self) -> Iterator[tuple[int, Doubles]]:
        """Give out the last bin."""
        if self._bin is not None and self._rows:
            yield self._bin * self.step, mean_of_rows(np.stack(self._rows))
            self._rows = []


def mean_of_rows(rows: Doubles) -> Doubles:
    """[columns], of what was observed in [rows, columns]; NaN where nothing was."""
    observed = ~np.isnan(rows)
    counts = observed.sum(axis=0)
    sums = np.where(observed, rows, 0.0).sum(axis=0)
    means: Doubles = np.divide(sums, counts, out=np.full(rows.shape[1], np.nan), where=counts > 0)
    return means


def resample(series: Series, step: float) -> Series:
    """A series with one row for each step of so many seconds.

    Returns
    -------
    Series
        With a note of what was done. Bins without a row are gaps. A time is the beginning of its bin.

    Raises
    ------
    BadData
        Without times, or too many bins are empty.
    """
    if series.times is None:
        raise BadData(f"{series.source} has no times to resample by; name their column: --time-column")
    resampler = Resampler(series.source, step)
    found: list[tuple[int, Doubles]] = []
    for moment, values in zip(series.times.astype(np.int64).tolist(), series.values, strict=True):
        found.extend(resampler.add(moment, values))
    found.extend(resampler.finish())
    note = (
        f"resampled to {format_step(step)}: {len(series)} rows became {len(found)}, each the mean of its "
        f"rows; {resampler.empty} without a row are gaps"
    )
    return replace(
        series,
        values=np.stack([values for _, values in found]),
        times=np.array([moment for moment, _ in found], np.int64).astype("datetime64[us]"),
        gaps=True,
        notes=(*series.notes, note),
    )
