"""A series: columns of finite numbers in the order of time, with or without the times themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadData
from models.scaling import Floats

Times = npt.NDArray[np.datetime64]

# Rows per cycle as a fraction of it, so that 23:00 and 00:00 are neighbours on the circle.
CYCLES = {"hour": 24.0, "weekday": 7.0, "yearday": 365.25}
TIME_FEATURES = tuple(f"{cycle}_{wave}" for cycle in CYCLES for wave in ("sin", "cos"))


@dataclass(frozen=True, eq=False)
class Series:
    """What was read.

    Attributes
    ----------
    source
        The file, as messages name it.
    columns, values
        Names, and float64 [rows, columns] in the data's own units; every value is finite.
    times
        [rows] datetime64[us] in UTC, never going back; None without a time column.

    Raises
    ------
    BadData
        For NaN and infinity, and for times that run back: rows are counted from 1, below the header.
    """

    source: str
    columns: tuple[str, ...]
    values: Floats
    times: Times | None = None

    def __post_init__(self) -> None:
        bad = np.argwhere(~np.isfinite(self.values))
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

    def pick(self, names: Sequence[str]) -> Floats:
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

    def with_time_features(self, names: Sequence[str]) -> "Series":
        """Add columns made from the times: `hour_sin`, `hour_cos`, `weekday_sin`, ... in UTC.

        A cycle's angle is 2 pi times the part of it gone by: hours / 24, days since Monday 00:00 / 7, days
        since 1 January 00:00 / 365.25.
        """
        if not names:
            return self
        if self.times is None:
            raise BadData(f"{self.source} has no time column to make {names[0]} from; name it: --time-column")
        features = np.stack([time_feature(name, self.times) for name in names], axis=1)
        return replace(
            self, columns=(*self.columns, *names), values=np.concatenate([self.values, features], axis=1)
        )


def time_feature(name: str, times: Times) -> Floats:
    """One of `TIME_FEATURES`, [rows] in -1 to 1."""
    cycle, wave = name.split("_")
    angle = 2 * np.pi * _since_start(cycle, times) / CYCLES[cycle]
    return np.sin(angle) if wave == "sin" else np.cos(angle)


def _since_start(cycle: str, times: Times) -> Floats:
    day = times.astype("datetime64[D]")
    if cycle == "hour":
        return _elapsed(times - day, "h")
    if cycle == "yearday":
        return _elapsed(times - times.astype("datetime64[Y]"), "D")
    days = (day.astype(np.int64) + 3) % 7  # 1 January 1970 was a Thursday, the third day after Monday
    return days + _elapsed(times - day, "D")


def _elapsed(span: npt.NDArray[np.timedelta64], unit: str) -> Floats:
    elapsed: Floats = span / np.timedelta64(1, unit)  # type: ignore[call-overload]
    return elapsed


def _check_order(source: str, times: Times) -> None:
    back = np.flatnonzero(np.diff(times) < np.timedelta64(0))
    if len(back):
        row = int(back[0]) + 1
        raise BadData(
            f"{source}, row {row + 1}: time {times[row]} comes before {times[row - 1]}; sort by time"
        )
