"""A series: columns of numbers in the order of time, with or without the times themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.arrays import Doubles, Seconds, Times
from models.data import calendar
from models.errors import BadData


@dataclass(frozen=True, eq=False)
class Series:
    """What was read.

    Attributes
    ----------
    source
        The file, as messages name it.
    columns, values
        Names, and float64 [rows, columns] in the data's own units; every value is finite, or NaN where it was
        not observed and `gaps` says that this may be.
    times
        [rows] datetime64[us] in UTC, never going back; None without a time column.
    time_features
        Those of `models.calendar.PERIODS` whose columns are the last ones, made from the times.

    Raises
    ------
    BadData
        For infinity, for NaN without `gaps`, and for times that run back: rows are counted from 1, below the
        header.
    """

    source: str
    columns: tuple[str, ...]
    values: Doubles
    times: Times | None = None
    time_features: tuple[str, ...] = ()
    gaps: bool = False

    def __post_init__(self) -> None:
        bad = np.argwhere(np.isinf(self.values) if self.gaps else ~np.isfinite(self.values))
        if len(bad):
            row, column = bad[0]
            value = self.values[row, column]
            raise BadData(
                f"{self.source}, row {row + 1}, column {self.columns[column]!r}: {value} is not finite"
            )
        if self.times is not None:
            _check_order(self.source, self.times)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def name(self) -> str:
        """The source without its folders: what an artifact remembers of it."""
        return Path(self.source).name

    def pick(self, names: Sequence[str]) -> Doubles:
        """The columns of these names, [rows, names].

        Raises
        ------
        BadData
            Tells which columns there are.
        """
        for name in names:
            if name not in self.columns:
                raise BadData(f"{self.source} has no column {name!r}; it has {', '.join(self.columns)}")
        return self.values[:, [self.columns.index(name) for name in names]]

    def fill_gaps(self) -> "Series":
        """Each gap filled by what was observed last, or by what is observed first.

        Raises
        ------
        BadData
            For a column in which nothing was observed.
        """
        return replace(self, values=fill_gaps(self.source, self.columns, self.values), gaps=False)

    def with_time_features(self, names: Sequence[str]) -> "Series":
        """Add the columns that `models.calendar` makes from the times, behind the others.

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
        """[rows], the times as seconds since 1970, UTC."""
        if self.times is None:
            raise BadData(f"{self.source} has no time column to read times from; name it: --time-column")
        return self.times.astype(np.int64) / 1e6

    def interval_seconds(self) -> float:
        """The step from row to row.

        Raises
        ------
        BadData
            Without times, or naming the first row that does not lie one step behind the row before it.
        """
        seconds = self.seconds()
        step = float(np.median(np.diff(seconds))) if len(self) > 1 else 0.0
        if not step > 0:
            raise BadData(f"{self.source} has no step from row to row: most of its times are equal")
        odd = calendar.first_irregular(seconds, step)
        if odd is not None and self.times is not None:
            raise BadData(
                f"{self.source}, row {odd + 1}: {self.times[odd]} lies {seconds[odd] - seconds[odd - 1]:g} s "
                f"behind the row before it, the others {step:g} s; time features need one step"
            )
        return step


def fill_gaps(source: str, columns: Sequence[str], values: Doubles) -> Doubles:
    """[rows, columns], as `Series.fill_gaps`."""
    seen = ~np.isnan(values)
    if seen.all():
        return values
    for column in np.flatnonzero(~seen.any(axis=0)):
        raise BadData(f"{source}: nothing was observed in column {columns[int(column)]!r}")
    last = np.maximum.accumulate(np.where(seen, np.arange(len(values))[:, None], -1), axis=0)
    whole: Doubles = np.take_along_axis(values, np.where(last < 0, seen.argmax(axis=0), last), axis=0)
    return whole


def _check_order(source: str, times: Times) -> None:
    back = np.flatnonzero(np.diff(times) < np.timedelta64(0))
    if len(back):
        row = int(back[0]) + 1
        raise BadData(
            f"{source}, row {row + 1}: time {times[row]} comes before {times[row - 1]}; sort by time"
        )
