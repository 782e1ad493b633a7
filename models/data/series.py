"""A series: columns of numbers in the order of time, with or without timestamps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.arrays import Doubles, Seconds, Times
from models.data import calendar
from models.data.resampling import format_step, order_error
from models.errors import BadData


@dataclass(frozen=True, eq=False)
class Series:
    """Columns of numbers in the order of time.

    Attributes
    ----------
    source
        The file, as messages name it.
    columns, values
        Names, and float64 [rows, columns] in the data's own units. Every value is finite; with `gaps` it may
        be NaN: not observed.
    times
        [rows] datetime64[us] in UTC, never decreasing; None without a time column.
    time_features
        Those of `models.data.calendar.PERIODS`, whose columns are the last ones.
    notes
        What a user should know of how it was read.
    ordered
        Whether the times never decrease; False: these are the rows of many series.

    Raises
    ------
    BadData
        For infinity, for NaN without `gaps`, and for times that go back. The message counts rows from 1,
        below the header.
    """

    source: str
    columns: tuple[str, ...]
    values: Doubles
    times: Times | None = None
    time_features: tuple[str, ...] = ()
    gaps: bool = False
    notes: tuple[str, ...] = ()
    ordered: bool = True

    def __post_init__(self) -> None:
        bad = np.argwhere(np.isinf(self.values) if self.gaps else ~np.isfinite(self.values))
        if len(bad):
            row, column = bad[0]
            value = self.values[row, column]
            raise BadData(
                f"{self.source}, row {row + 1}, column {self.columns[column]!r}: {value} is not finite"
            )
        if self.times is not None and self.ordered:
            _check_order(self.source, self.times)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def name(self) -> str:
        """The file name without folders, as artifacts record it."""
        return Path(self.source).name

    def pick(self, names: Sequence[str]) -> Doubles:
        """The columns of these names, [rows, names].

        Raises
        ------
        BadData
            There is no such column; the message lists the columns.
        """
        for name in names:
            if name not in self.columns:
                raise BadData(f"{self.source} has no column {name!r}; it has {', '.join(self.columns)}")
        return self.values[:, [self.columns.index(name) for name in names]]

    def fill_gaps(self) -> "Series":
        """Fill each gap with the last observed value; gaps before the first value get that one.

        Raises
        ------
        BadData
            For a column without any value.
        """
        return replace(self, values=fill_gaps(self.source, self.columns, self.values), gaps=False)

    def with_time_features(self, names: Sequence[str]) -> "Series":
        """Add time features as columns after the others.

        Raises
        ------
        BadData
            For an unknown name, without times, and for times that are not one step apart.
        """
        for name in names:
            if name not in calendar.PERIODS:
                raise BadData(f"unknown time feature {name!r}; there are {', '.join(calendar.PERIODS)}")
        if not names:
            return self
        self.interval_seconds()
        return replace(
            self,
            columns=(*self.columns, *calendar.columns(names)),
            values=np.concatenate([self.values, calendar.encode(names, self.seconds())], axis=1),
            time_features=tuple(names),
        )

    def seconds(self) -> Seconds:
        """[rows], the times as seconds since 1970, UTC.

        Raises
        ------
        BadData
            Without times.
        """
        if self.times is None:
            raise BadData(f"{self.source} has no time column; name it: --time-column")
        return self.times.astype(np.int64) / 1e6

    def describe_irregular(self) -> str | None:
        """See `describe_irregular`; None without times, too."""
        return None if self.times is None else describe_irregular(self.times)

    def interval_seconds(self) -> float:
        """The step from row to row, in seconds.

        Raises
        ------
        BadData
            Without times, or where a row is not one step after the row before it; the message names the row.
        """
        seconds = self.seconds()
        step = float(np.median(np.diff(seconds))) if len(self) > 1 else 0.0
        if not step > 0:
            raise BadData(f"{self.source} has no step from row to row: most times are equal")
        row = calendar.first_irregular(seconds, step)
        if row is not None and self.times is not None:
            raise BadData(
                f"{self.source}, row {row + 1}: {self.times[row]} is {seconds[row] - seconds[row - 1]:g} s "
                f"after the row before it, the other rows {step:g} s; time features need one step: "
                f"--resample {format_step(step)}"
            )
        return step


def describe_irregular(times: Times) -> str | None:
    """The steps between these times that are not the usual one, in a sentence; None if there are none."""
    if len(times) < 3:
        return None
    steps = np.diff(times).astype(np.int64) / 1e6
    step = float(np.median(steps))
    rows = np.flatnonzero(~(np.abs(steps - step) <= calendar.TOLERANCE * step))
    if not len(rows) or step <= 0:
        return None
    row = int(rows[0])
    verb = "is" if len(rows) == 1 else "are"
    return (
        f"{len(rows)} of {len(steps)} steps {verb} not the usual {step:g} s; the first is {steps[row]:g} s, "
        f"before row {row + 2} at {times[row + 1]}. --resample {format_step(step)} mends them"
    )


def fill_gaps(source: str, columns: Sequence[str], values: Doubles) -> Doubles:
    """`Series.fill_gaps` for values [rows, columns]."""
    observed = ~np.isnan(values)
    if observed.all():
        return values
    for column in np.flatnonzero(~observed.any(axis=0)):
        raise BadData(f"{source}: column {columns[int(column)]!r} has no value")
    last = np.maximum.accumulate(np.where(observed, np.arange(len(values))[:, None], -1), axis=0)
    filled: Doubles = np.take_along_axis(values, np.where(last < 0, observed.argmax(axis=0), last), axis=0)
    return filled


def _check_order(source: str, times: Times) -> None:
    back = np.flatnonzero(np.diff(times) < np.timedelta64(0))
    if len(back):
        row = int(back[0]) + 1
        seconds = float((times[row - 1] - times[row]).astype(np.int64)) / 1e6
        raise order_error(f"{source}, row {row + 1}", times[row], times[row - 1], seconds)
